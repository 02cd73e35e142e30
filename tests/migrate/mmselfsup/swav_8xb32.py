_base_ = "common.py"
counts = [2, 6]
crop = dict(type="RandomResizedCrop", backend="pillow")
colours = [
  dict(
    type="RandomApply",
    prob=0.8,
    transforms=[
      dict(
        type="ColorJitter",
        brightness=0.8,
        contrast=0.8,
        saturation=0.8,
        hue=0.2,
      )
    ],
  ),
  _base_.grey,
  _base_.blur,
  _base_.flip,
]
large = [dict(size=224, scale=(0.14, 1.0), **crop)] + colours
small = [dict(size=96, scale=(0.05, 0.14), **crop)] + colours
views = dict(type="MultiView", transforms=[large, small], num_views=counts)
train_dataloader = dict(
  dataset=dict(pipeline=[_base_.unpack, views, _base_.pack])
)

model = dict(
  type="SwAV",
  backbone=dict(
    type="ResNet",
    depth=50,
    norm_cfg=dict(type="SyncBN"),
    zero_init_residual=True,
  ),
  neck=dict(
    type="SwAVNeck", in_channels=2048, hid_channels=2048, out_channels=128
  ),
  head=dict(
    type="SwAVHead",
    loss=dict(
      type="SwAVLoss",
      epsilon=0.05,
      feat_dim=128,
      num_crops=counts,
      temperature=0.1,
    ),
  ),
)
custom_hooks = [
  dict(
    type="SwAVHook",
    batch_size={{_base_.train_dataloader.batch_size}},
    crops_for_assign=[0, 1],
    epoch_queue_starts=15,
    feat_dim=128,
    frozen_layers_cfg=dict(prototypes=5005),
    priority="VERY_HIGH",
    queue_length=3840,
  )
]

optim_wrapper = dict(
  type="OptimWrapper",
  optimizer=dict(type="LARS", lr=0.6, momentum=0.9, weight_decay=1e-6),
)
param_scheduler = [
  dict(
    type="CosineAnnealingLR",
    T_max=200,
    convert_to_iter_based=True,
    eta_min=6e-4,
  )
]
train_cfg = dict(max_epochs=200)
