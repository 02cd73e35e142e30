_base_ = "common.py"
view = [
  dict(type="RandomResizedCrop", backend="pillow", scale=(0.2, 1.0), size=224),
  dict(
    type="RandomApply",
    prob=0.8,
    transforms=[
      dict(
        type="ColorJitter",
        brightness=0.4,
        contrast=0.4,
        saturation=0.4,
        hue=0.1,
      )
    ],
  ),
  _base_.grey,
  _base_.blur,
  _base_.flip,
]
views = dict(type="MultiView", transforms=[view], num_views=2)
train_dataloader = dict(
  dataset=dict(pipeline=[_base_.unpack, views, _base_.pack])
)

model = dict(
  type="MoCo",
  momentum=0.999,
  queue_len=65536,
  backbone=dict(type="ResNet", depth=50, norm_cfg=dict(type="BN")),
  neck=dict(
    type="MoCoV2Neck", in_channels=2048, hid_channels=2048, out_channels=128
  ),
  head=dict(
    type="ContrastiveHead",
    loss=dict(type="mmcls.CrossEntropyLoss"),
    temperature=0.2,
  ),
)

optim_wrapper = dict(
  optimizer=dict(type="SGD", lr=0.03, momentum=0.9, weight_decay=1e-4)
)
param_scheduler = dict(type="CosineAnnealingLR", T_max=200)
train_cfg = dict(max_epochs=200)
