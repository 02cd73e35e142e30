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
first = start + [
  dict(type="RandomGaussianBlur", prob=1.0, **sigma),
]
second = start + [
  dict(type="RandomGaussianBlur", prob=0.1, **sigma),
  dict(type="RandomSolarize", prob=0.2),
]
views = dict(type="MultiView", transforms=[first, second], num_views=[1, 1])
train_dataloader = dict(
  batch_size=256,
  dataset=dict(pipeline=[_base_.unpack, views, _base_.pack]),
)

width = 8192
model = dict(
  type="BarlowTwins",
  backbone=dict(
    type="ResNet",
    depth=50,
    norm_cfg=dict(type="SyncBN"),
    zero_init_residual=True,
  ),
  neck=dict(
    type="NonLinearNeck",
    in_channels=2048,
    hid_channels=width,
    out_channels=width,
    num_layers=3,
    with_last_bn=False,
    with_last_bn_affine=False,
    init_cfg=dict(type="Kaiming", distribution="uniform", layer=["Linear"]),
  ),
  head=dict(
    type="LatentCrossCorrelationHead",
    in_channels=width,
    loss=dict(type="CrossCorrelationLoss"),
  ),
)

flat = dict(decay_mult=0, lr_mult=0.024, lars_exclude=True)
optim_wrapper = dict(
  optimizer=dict(type="LARS", lr=1.6, momentum=0.9, weight_decay=1e-6),
  paramwise_cfg=dict(
    custom_keys={"bn": flat, "bias": flat, "downsample.1": flat}
  ),
)
param_scheduler = [
  dict(
    type="LinearLR", start_factor=1.6e-4, end=10, convert_to_iter_based=True
  ),
  dict(
    type="CosineAnnealingLR",
    T_max=290,
    eta_min=0.0016,
    begin=10,
    end=300,
    convert_to_iter_based=True,
  ),
]
train_cfg = dict(max_epochs=300)
