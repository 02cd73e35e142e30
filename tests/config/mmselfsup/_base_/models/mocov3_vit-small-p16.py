temperature = 0.2
model = dict(
  type="MoCoV3",
  base_momentum=0.01,
  data_preprocessor=dict(
    mean=(123.675, 116.28, 103.53),
    std=(58.395, 57.12, 57.375),
    bgr_to_rgb=True,
  ),
  backbone=dict(
    type="MoCoV3ViT",
    arch="mocov3-small",
    img_size=224,
    patch_size=16,
    stop_grad_conv1=True,
  ),
  neck=dict(
    type="NonLinearNeck",
    in_channels=384,
    hid_channels=4096,
    out_channels=256,
    num_layers=3,
    with_last_bn_affine=False,
  ),
  head=dict(
    type="MoCoV3Head",
    predictor=dict(
      type="NonLinearNeck",
      in_channels=256,
      hid_channels=4096,
      out_channels=256,
      num_layers=2,
    ),
    loss=dict(type="mmcls.CrossEntropyLoss", loss_weight=2 * temperature),
    temperature=temperature,
  ),
)
