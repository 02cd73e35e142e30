_base_ = "mocov2_8xb32.py"
rate = 0.05
model = dict(
  _delete_=True,
  type="SimSiam",
  data_preprocessor=_base_.preprocessor,
  backbone=dict(
    type="ResNet",
    depth=50,
    norm_cfg=dict(type="SyncBN"),
    zero_init_residual=True,
  ),
  neck=dict(
    type="NonLinearNeck",
    in_channels=2048,
    hid_channels=2048,
    out_channels=2048,
    num_layers=3,
    with_last_bn_affine=False,
    with_avg_pool=True,
  ),
  head=dict(
    type="LatentPredictHead",
    loss=dict(type="CosineSimilarityLoss"),
    predictor=dict(
      type="NonLinearNeck",
      in_channels=2048,
      hid_channels=512,
      out_channels=2048,
      with_avg_pool=False,
      with_last_bn=False,
      with_last_bias=True,
    ),
  ),
)
custom_hooks = [
  dict(type="SimSiamHook", priority="HIGH", fix_pred_lr=True, lr=rate)
]
optim_wrapper = dict(
  optimizer=dict(lr=rate),
  paramwise_cfg=dict(custom_keys={"predictor": dict(fix_lr=True)}),
)
