#!/usr/bin/env bash
# TPU slices v5p and newer, as instance groups of Compute Engine.
#
#   launch/tpu_mig.sh create|setup|run|logs|status|stop|delete \
#     --name=NAME --project=P --zone=ZONE --machine=ct6e-standard-4t \
#     --topology=4x4 [--model=flex-start] [-- --config=... --workdir=...]
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH} \
  exec "${PYTHON:-python3}" -m sslx.launch tpu_mig "$@"
