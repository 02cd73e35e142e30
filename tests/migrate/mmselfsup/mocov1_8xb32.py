# The first MoCo: a linear neck, no blur, steps.
_base_ = "mocov2_8xb32.py"
view = [
  dict(type="RandomResizedCrop", backend="pillow", scale=(0.2, 1.0), size=224),
  dict(
    type="ColorJitter", brightness=0.4, contrast=0.4, saturation=0.4, hue=0.4
  ),
  _base_.grey,
  _base_.flip,
]
views = dict(type="MultiView", transforms=[view], num_views=[2])
train_dataloader = dict(
  dataset=dict(pipeline=[_base_.unpack, views, _base_.pack])
)
model = dict(
  head=dict(temperature=0.07),
  neck=dict(
    _delete_=True, type="LinearNeck", in_channels=2048, out_channels=128
  ),
)
param_scheduler = dict(
  _delete_=True, type="MultiStepLR", gamma=0.1, milestones=[120, 160]
)
