_base_ = "common.py"
tau = 0.2
start = [
  dict(type="RandomResizedCrop", backend="pillow", size=224),
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
  _base_.flip,
]
second = start + [
  dict(type="RandomGaussianBlur", prob=0.1, **sigma),
  dict(type="RandomSolarize", prob=0.2),
  _base_.flip,
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
  with_avg_pool=False,
  with_last_bn_affine=False,
)
model = dict(
  type="MoCoV3",
  base_momentum=0.99,
  backbone=dict(
    type="MoCoV3ViT", arch="mocov3-small", patch_size=16, stop_grad_conv1=True
  ),
  neck=dict(in_channels=384, num_layers=3, vit_backbone=True, **mlp),
  head=dict(
    type="MoCoV3Head",
    loss=dict(type="mmcls.CrossEntropyLoss", loss_weight=2 * tau),
    predictor=dict(in_channels=256, num_layers=2, **mlp),
    temperature=tau,
  ),
)

optim_wrapper = dict(
  type="AmpOptimWrapper",
  clip_grad=dict(max_norm=5.0),
  loss_scale="dynamic",
  optimizer=dict(type="AdamW", betas=(0.9, 0.999), lr=2.4e-3, weight_decay=0.1),
)
param_scheduler = [
  dict(type="LinearLR", convert_to_iter_based=True, end=40, start_factor=1e-4),
  dict(
    type="CosineAnnealingLR",
    T_max=260,
    begin=40,
    convert_to_iter_based=True,
    end=300,
  ),
]
train_cfg = dict(max_epochs=300)
