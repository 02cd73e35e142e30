_base_ = "common.py"
start = [
  dict(
    type="RandomResizedCrop",
    backend="pillow",
    interpolation="bicubic",
    size=224,
  ),
  _base_.flip,
  dict(
    type="RandomApply",
    prob=0.8,
    transforms=[
      dict(
        type="ColorJitter",
        brightness=0.4,
        contrast=0.4,
        saturation=0.2,
        hue=0.1,
      )
    ],
  ),
  _base_.grey,
]
sigma = dict(sigma_min=0.1, sigma_max=2.0)
first = start + [dict(type="RandomGaussianBlur", prob=1.0, **sigma)]
second = start + [
  dict(type="RandomGaussianBlur", prob=0.1, **sigma),
  dict(type="RandomSolarize", prob=0.2),
]
views = dict(type="MultiView", transforms=[first, second], num_views=[1, 1])
train_dataloader = dict(
  batch_size=256,
  dataset=dict(pipeline=[_base_.unpack, views, _base_.pack]),
)
mlp = dict(
  type="NonLinearNeck",
  hid_channels=4096,
  out_channels=256,
  num_layers=2,
  with_bias=True,
  with_last_bn=False,
)
spared = dict(decay_mult=0, lars_exclude=True)
model = dict(
  type="BYOL",
  base_momentum=0.99,
  backbone=dict(type="ResNet", depth=50, norm_cfg=dict(type="SyncBN")),
  neck=dict(in_channels=2048, with_avg_pool=True, **mlp),
  head=dict(
    type="LatentPredictHead",
    predictor=dict(in_channels=256, with_avg_pool=False, **mlp),
    loss=dict(type="CosineSimilarityLoss"),
  ),
)
optim_wrapper = dict(
  type="OptimWrapper",
  optimizer=dict(type="LARS", lr=4.8, momentum=0.9, weight_decay=1e-6),
  paramwise_cfg=dict(
    custom_keys={"bn": spared, "bias": spared, "downsample.1": spared}
  ),
)
param_scheduler = [
  dict(type="LinearLR", convert_to_iter_based=True, end=10, start_factor=1e-4),
  dict(type="CosineAnnealingLR", T_max=190, begin=10, end=200),
]
train_cfg = dict(max_epochs=200)
