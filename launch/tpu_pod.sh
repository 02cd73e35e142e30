#!/usr/bin/env bash
# TPU slices v2 to v6e, as queued resources of the Cloud TPU API.
#
#   launch/tpu_pod.sh create|setup|run|logs|status|stop|delete \
#     --name=NAME --zone=ZONE --type=v6e-16 [--spot] [-- --config=... --workdir=...]
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH} \
  exec "${PYTHON:-python3}" -m sslx.launch tpu_pod "$@"
