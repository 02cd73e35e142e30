_base_ = [
  "../_base_/models/mocov3_vit-small-p16.py",
  "../_base_/datasets/imagenet_mocov3.py",
  "../_base_/schedules/adamw_coslr-300e.py",
  "../_base_/default_runtime.py",
]

model = dict(
  backbone=dict(arch="base"),
  neck=dict(in_channels=768),
)

train_dataloader = dict(batch_size=256, num_workers=8)

optimizer = dict(type="AdamW", lr=2.4e-3, weight_decay=0.1)
optim_wrapper = dict(
  type="AmpOptimWrapper", loss_scale="dynamic", optimizer=optimizer
)
find_unused_parameters = True
