#!/usr/bin/env bash
# TPU slices of GKE, by kubectl and jobset.yaml.
#
#   launch/gke_jobset.sh create|logs|status|delete --name=NAME --image=IMAGE \
#     --accelerator=tpu-v6e-slice --topology=4x4 [-- --config=... --workdir=...]
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH} \
  exec "${PYTHON:-python3}" -m sslx.launch gke_jobset "$@"
