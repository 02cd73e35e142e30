_base_ = [
  "../_base_/models/swav.py",
  "../_base_/datasets/imagenet_swav_mcrop-2-6.py",
  "../_base_/schedules/lars_coslr-200e.py",
  "../_base_/default_runtime.py",
]

custom_hooks = [
  dict(
    type="SwAVHook",
    priority="VERY_HIGH",
    batch_size=64,
    epoch_queue_starts=15,
    crops_for_assign=[0, 1],
    feat_dim=128,
    queue_length=3840,
    frozen_layers_cfg=dict(prototypes=5005),
  )
]

optimizer = dict(type="LARS", lr=0.6)
optim_wrapper = dict(optimizer=optimizer)

param_scheduler = [
  dict(
    type="CosineAnnealingLR",
    T_max=200,
    eta_min=6e-4,
    by_epoch=True,
    begin=0,
    end=200,
    convert_to_iter_based=True,
  )
]
