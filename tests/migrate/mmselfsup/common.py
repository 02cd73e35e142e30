# What the files here share, in MMEngine's format: images, log, checkpoints.
default_scope = "mmselfsup"
gpu_images = 32

preprocessor = dict(
  bgr_to_rgb=True, mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375]
)
unpack = dict(type="LoadImageFromFile")
pack = dict(type="PackSelfSupInputs")
flip = dict(type="RandomFlip", prob=0.5)
blur = dict(type="RandomGaussianBlur", prob=0.5, sigma_min=0.1, sigma_max=2.0)
grey = dict(
  type="RandomGrayscale",
  prob=0.2,
  channel_weights=(0.114, 0.587, 0.2989),
  keep_channels=True,
)

model = dict(data_preprocessor=preprocessor)
train_dataloader = dict(
  batch_size=gpu_images,
  num_workers=16,
  sampler=dict(type="DefaultSampler", shuffle=True),
  dataset=dict(type="mmcls.ImageNet", data_root="/images"),
)
default_hooks = dict(
  checkpoint=dict(type="CheckpointHook", interval=5, max_keep_ckpts=2),
  logger=dict(type="LoggerHook", interval=20),
)
randomness = dict(seed=3)
env_cfg = dict(cudnn_benchmark=True)
