#!/usr/bin/env bash
# Runs the quickstart of every method, one after the other, and makes a table of
# them. If it is interrupted, start it again: what is done is not done again.
#
#   configs/benchmarks/shapes.sh work_dirs/shapes [METHOD ...]
set -euo pipefail

out=${1:?give a folder for the runs}
shift
methods=("$@")
[[ $# -gt 0 ]] ||
  methods=(simclr mocov2 byol simsiam barlow_twins vicreg lejepa swav
    relative_loc mocov3 mae ijepa dino ibot dinov2)
python=${PYTHON:-python}
# Huge pages: steps on a CPU are faster.
export GLIBC_TUNABLES=${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1}

runs=()
for method in "${methods[@]}"; do
  runs+=("$out/$method")
  time "$python" -m sslx.main --config="configs/$method.py:quickstart" \
    --workdir="$out/$method"
done
"$python" -m sslx.report compare "${runs[@]}" --out="$out/runs.md"
