_base_ = "common.py"
train_dataloader = dict(
  batch_size=2 * _base_.gpu_images,
  dataset=dict(
    pipeline=[
      _base_.unpack,
      dict(type="Resize", backend="pillow", scale=292),
      dict(type="RandomCrop", size=255),
      dict(type="RandomGrayscale", keep_channels=True, prob=0.66),
      dict(type="RandomPatchWithLabels"),
      dict(type="PackSelfSupInputs", pseudo_label_keys=["patch_label"]),
    ]
  ),
)

model = dict(
  type="RelativeLoc",
  data_preprocessor=dict(
    type="RelativeLocDataPreprocessor",
    mean=[124, 117, 104],
    std=[59, 58, 58],
  ),
  backbone=dict(type="ResNet", depth=50, norm_cfg=dict(type="BN")),
  neck=dict(type="RelativeLocNeck", in_channels=2048, out_channels=4096),
  head=dict(
    type="ClsHead",
    in_channels=4096,
    init_cfg=[
      dict(type="Normal", layer="Linear", std=0.005),
      dict(type="Constant", layer=["_BatchNorm", "GroupNorm"], val=1),
    ],
    loss=dict(type="CrossEntropyLoss"),
    num_classes=8,
    with_avg_pool=False,
  ),
)

five = dict(decay_mult=5.0)
optim_wrapper = dict(
  type="OptimWrapper",
  optimizer=dict(type="SGD", lr=0.2, momentum=0.9, weight_decay=1e-4),
  paramwise_cfg=dict(custom_keys=dict(head=five, neck=five)),
)
param_scheduler = [
  dict(type="LinearLR", convert_to_iter_based=True, end=5, start_factor=0.1),
  dict(type="MultiStepLR", milestones=[30, 50]),
]
train_cfg = dict(max_epochs=70)
