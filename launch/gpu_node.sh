#!/usr/bin/env bash
# Trains on the GPUs of this node, one process each; started once on each node.
#
#   launch/gpu_node.sh -- --config=... --workdir=...
#   launch/gpu_node.sh --nodes=2 --node=0 --coordinator=HOST0 -- ...
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH} \
  exec "${PYTHON:-python3}" -m sslx.launch gpu_node run "$@"
