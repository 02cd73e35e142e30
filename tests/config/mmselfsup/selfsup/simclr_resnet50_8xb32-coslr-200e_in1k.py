_base_ = [
  "../_base_/models/simclr.py",
  "../_base_/datasets/imagenet_simclr.py",
  "../_base_/schedules/lars_coslr-200e.py",
  "../_base_/default_runtime.py",
]

optimizer = dict(type="LARS", lr=0.3, momentum=0.9, weight_decay=1e-6)
optim_wrapper = dict(
  type="OptimWrapper",
  optimizer=optimizer,
  paramwise_cfg=dict(
    custom_keys={
      "bn": dict(decay_mult=0, lars_exclude=True),
      "bias": dict(decay_mult=0, lars_exclude=True),
      "downsample.1": dict(decay_mult=0, lars_exclude=True),
    }
  ),
)

default_hooks = dict(
  logger=dict(type="LoggerHook", interval=50),
  checkpoint=dict(type="CheckpointHook", interval=10, max_keep_ckpts=3),
)
