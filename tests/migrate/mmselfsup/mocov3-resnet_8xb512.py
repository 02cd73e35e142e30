_base_ = "mocov3-vit_16xb256.py"
mlp = dict(
  type="NonLinearNeck", hid_channels=4096, out_channels=256, num_layers=2
)
spared = dict(decay_mult=0.0, lars_exclude=True)
train_dataloader = dict(batch_size=512)
model = dict(
  backbone=dict(
    _delete_=True, type="ResNet", depth=50, norm_cfg=dict(type="SyncBN")
  ),
  neck=dict(_delete_=True, in_channels=2048, with_last_bn_affine=False, **mlp),
  head=dict(
    loss=dict(loss_weight=2.0),
    predictor=dict(
      _delete_=True,
      in_channels=256,
      with_avg_pool=False,
      with_last_bn=False,
      **mlp,
    ),
    temperature=1.0,
  ),
)
optim_wrapper = dict(
  optimizer=dict(
    _delete_=True, type="LARS", lr=9.6, momentum=0.9, weight_decay=1e-6
  ),
  paramwise_cfg=dict(
    custom_keys={"bn": spared, "bias": spared, "downsample.1": spared}
  ),
)
param_scheduler = [
  dict(type="LinearLR", convert_to_iter_based=True, end=10, start_factor=1e-4),
  dict(
    type="CosineAnnealingLR", T_max=90, begin=10, convert_to_iter_based=True
  ),
]
train_cfg = dict(max_epochs=100)
