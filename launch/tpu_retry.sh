#!/usr/bin/env bash
# Trains on slices that may be preempted: makes one, sets it up, runs, and makes
# another when it is lost, until the job is done. Deletes only what it made.
#
#   launch/tpu_retry.sh pod|mig (flags of tpu_pod.sh or tpu_mig.sh) \
#     [--attempts=8] [--keep] -- --config=... --workdir=...
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
where=${1:?give pod or mig first}
shift
PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH} \
  exec "${PYTHON:-python3}" -m sslx.launch "tpu_$where" retry "$@"
