#!/usr/bin/env bash
# TPU slices and GPU nodes of GKE, by xpk.
#
#   launch/gke_xpk.sh create|logs|status|delete --name=NAME --cluster=CLUSTER \
#     --image=IMAGE --tpu=v6e-16 [-- --config=... --workdir=...]
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH} \
  exec "${PYTHON:-python3}" -m sslx.launch gke_xpk "$@"
