#!/usr/bin/env bash
# Trains in several processes on the CPU of this machine: the rehearsal of a pod.
#
#   launch/local.sh --processes=2 --devices=4 -- --config=... --workdir=...
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH} \
  exec "${PYTHON:-python3}" -m sslx.launch local run "$@"
