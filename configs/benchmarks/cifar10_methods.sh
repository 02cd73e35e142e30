#!/usr/bin/env bash
# Trains every method for three epochs of CIFAR-10, relative location for one: those
# for a ViT with one small ViT, the others with one narrow ResNet-18. Each run is a
# quickstart with CIFAR-10's crops, and kNN says after each epoch how far it is. At
# the end it makes a table. If it is interrupted, start it again: what is done is not
# done again.
#
#   configs/benchmarks/cifar10_methods.sh work_dirs/methods [TFDS_DIR [METHOD ...]]
set -euo pipefail

out=${1:?give a folder for the runs}
data=("${2:+--config.data.data_dir=$2}")
[[ -n ${data[0]} ]] || data=()
shift $(($# < 2 ? $# : 2))
methods=("$@")
[[ $# -gt 0 ]] ||
  methods=(simclr mocov2 byol simsiam barlow_twins vicreg lejepa swav
    relative_loc mocov3 mae ijepa dino ibot dinov2)
python=${PYTHON:-python}
# Huge pages: steps on a CPU are faster.
export GLIBC_TUNABLES=${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1}
common=(
  --config.data.source=cifar10 "${data[@]}"
  "--config.data.mean=(0.4914, 0.4822, 0.4465)"
  "--config.data.std=(0.247, 0.2435, 0.2616)"
  --config.schedule.epochs=3
  --config.schedule.lr.warmup=0.3
  --config.runtime.evaluate.every_epochs=1
  --config.runtime.evaluate.knn.bank=10000
  --config.runtime.evaluate.pixels=False
)
crop="--config.data.views.0.crop_scale=(0.2, 1)"
vit=(
  --config.data.batch_size=64
  --config.model.backbone.width=64
  --config.model.backbone.depth=4
  --config.model.backbone.heads=2
  --config.model.backbone.patch_size=4
  --config.model.backbone.positions=sincos
)

runs=()
for method in "${methods[@]}"; do
  case $method in
    dino | ibot | dinov2)
      flags=("${vit[@]}" --config.data.views.2.count=4
        "--config.data.views.2.crop_scale=(0.3, 0.6)")
      for view in 0 1 2; do
        flags+=("--config.data.views.$view.jitter=(0.4, 0.4, 0.4, 0.2)")
      done
      ;;
    ijepa) flags=("${vit[@]}" "$crop" --config.data.views.0.grey=0) ;;
    mae) flags=("${vit[@]}" "$crop") ;;
    mocov3) flags=("${vit[@]}" "$crop" --config.schedule.optimizer.lr=4e-3) ;;
    # It takes nine patches of each image.
    relative_loc) flags=(--config.schedule.epochs=1 --config.schedule.lr.warmup=0.1) ;;
    *) flags=("$crop") ;;
  esac
  runs+=("$out/$method")
  time "$python" -m sslx.main --config="configs/$method.py:quickstart" \
    --workdir="$out/$method" "${common[@]}" "${flags[@]}"
  case $method in
    mocov3 | dino | ibot | dinov2)
      # With all training images in the bank.
      "$python" -m sslx.evaluate --workdir="$out/$method" --protocol=knn-dino
      ;;
  esac
done
"$python" -m sslx.report compare "${runs[@]}" --out="$out/runs.md"
