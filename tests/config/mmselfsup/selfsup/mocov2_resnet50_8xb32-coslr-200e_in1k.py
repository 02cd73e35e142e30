_base_ = [
  "../_base_/models/mocov2.py",
  "../_base_/datasets/imagenet_mocov2.py",
  "../_base_/schedules/sgd_coslr-200e.py",
  "../_base_/default_runtime.py",
]

default_hooks = dict(
  checkpoint=dict(type="CheckpointHook", interval=10, max_keep_ckpts=3)
)
