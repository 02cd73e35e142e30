#!/usr/bin/env bash
# Pretrains SimCLR and MAE on CIFAR-10, evaluates both, and two untrained networks,
# by the same protocols, exports the weights to timm's format and reads them again,
# and draws the report. It took 11 minutes on two cores, 35 beside other work. If it
# is interrupted, start it again: what is done is not done again.
#
#   configs/benchmarks/cifar10.sh work_dirs/cifar10 [TFDS_DIR]
#
# Views of 24 px and few epochs save time; the recipes in configs/selfsup have the
# published settings.
set -euo pipefail

out=${1:?give a folder for the runs}
data=("${2:+--config.data.data_dir=$2}")
[[ -n ${data[0]} ]] || data=()
python=${PYTHON:-python}
# Huge pages: steps on a CPU are faster.
export GLIBC_TUNABLES=${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1}
common=(
  --config.data.source=cifar10 "${data[@]}"
  "--config.data.mean=(0.4914, 0.4822, 0.4465)"
  "--config.data.std=(0.247, 0.2435, 0.2616)"
  --config.data.views.0.size=24
  --config.runtime.evaluate.every_epochs=100
  --config.runtime.evaluate.knn.bank=10000
  --config.runtime.evaluate.pixels=False
)

train() { # name of the run, then flags
  local name=$1
  shift
  "$python" -m sslx.main --workdir="$out/$name" "${common[@]}" "$@"
}

evaluate() { # name of the run; protocol; flags
  local name=$1 protocol=$2
  shift 2
  for network in --nountrained --untrained; do
    "$python" -m sslx.evaluate --workdir="$out/$name" --protocol="$protocol" \
      "$network" "--test=test[:50%]" "$@"
  done
}

vit="variant='tiny', width=96, depth=4, heads=3, patch_size=4, image_size=24"
simclr=(
  --config=configs/simclr.py:quickstart
  "--config.model.backbone=dict(_delete_=True, name='vit', features='pooled', $vit)"
  "--config.data.views.0.crop_scale=(0.2, 1)"
  --config.schedule.optimizer.lr=1e-3
)
train simclr "${simclr[@]}" \
  --config.schedule.epochs=1 --config.schedule.lr.warmup=0.1
train mae --config=configs/mae.py:quickstart \
  --config.data.batch_size=256 --config.schedule.optimizer.lr=2e-3 \
  --config.model.backbone.image_size=24 \
  --config.schedule.epochs=2 --config.schedule.lr.warmup=0.2

part="--train=train[:20%]"
for run in simclr mae; do
  evaluate "$run" knn-dino "$part"
  evaluate "$run" linear-quick "$part" --config.schedule.epochs=1
  evaluate "$run" semisup-quick-1pct --config.schedule.epochs=10
  evaluate "$run" semisup-quick-10pct --config.schedule.epochs=2
  evaluate "$run" ft-quick "$part" --config.schedule.epochs=1
done

"$python" -m sslx.export --workdir="$out/simclr" --to=timm --out="$out/simclr_timm"
"$python" -m sslx.export --workdir="$out/mae" --to=timm --out="$out/mae_timm"
# And back: one step from the exported weights. The kNN accuracy before that step
# is the one of SimCLR after its last.
train back "${simclr[@]}" --config.runtime.init_from="$out/simclr_timm" \
  --config.schedule.epochs=None --config.schedule.steps=1 \
  --config.schedule.lr.warmup=0
"$python" -m sslx.report run "$out/simclr" "$out/mae" --images=500 \
  --out="$out/report.html"
cat "$out/simclr/CARD.md" "$out/mae/CARD.md"
