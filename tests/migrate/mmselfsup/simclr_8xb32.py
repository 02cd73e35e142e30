_base_ = "common.py"
strength = 1.0
epochs = 200
warm = 10
view = [
  dict(type="RandomResizedCrop", backend="pillow", size=224),
  _base_.flip,
  dict(
    type="RandomApply",
    prob=0.8,
    transforms=[
      dict(
        type="ColorJitter",
        brightness=0.8 * strength,
        contrast=0.8 * strength,
        saturation=0.8 * strength,
        hue=0.2 * strength,
      )
    ],
  ),
  _base_.grey,
  _base_.blur,
]
views = dict(type="MultiView", transforms=[view], num_views=2)
train_dataloader = dict(
  dataset=dict(pipeline=[_base_.unpack, views, _base_.pack])
)

model = dict(
  type="SimCLR",
  backbone=dict(
    type="ResNet",
    depth=50,
    norm_cfg=dict(type="SyncBN"),
    zero_init_residual=True,
  ),
  neck=dict(
    type="NonLinearNeck", in_channels=2048, hid_channels=2048, out_channels=128
  ),
  head=dict(
    type="ContrastiveHead",
    loss=dict(type="mmcls.CrossEntropyLoss"),
    temperature=0.1,
  ),
)

spared = dict(decay_mult=0, lars_exclude=True)
optim_wrapper = dict(
  type="OptimWrapper",
  optimizer=dict(type="LARS", lr=0.3, momentum=0.9, weight_decay=1e-6),
  paramwise_cfg=dict(
    custom_keys={"bn": spared, "bias": spared, "downsample.1": spared}
  ),
)
param_scheduler = [
  dict(
    type="LinearLR", start_factor=1e-4, end=warm, convert_to_iter_based=True
  ),
  dict(type="CosineAnnealingLR", begin=warm, end=epochs, T_max=epochs - warm),
]
train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=epochs)
