model = dict(
  type="RelativeLoc",
  data_preprocessor=dict(
    mean=(123.675, 116.28, 103.53),
    std=(58.395, 57.12, 57.375),
    bgr_to_rgb=True,
  ),
  backbone=dict(
    type="ResNet",
    depth=50,
    in_channels=3,
    out_indices=[4],
    norm_cfg=dict(type="BN"),
  ),
  neck=dict(
    type="RelativeLocNeck",
    in_channels=2048,
    out_channels=4096,
    with_avg_pool=True,
  ),
  head=dict(
    type="ClsHead",
    loss=dict(type="mmcls.CrossEntropyLoss"),
    with_avg_pool=False,
    in_channels=4096,
    num_classes=8,
  ),
)
