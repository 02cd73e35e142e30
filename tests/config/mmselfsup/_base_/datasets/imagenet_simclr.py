dataset_type = "mmcls.ImageNet"
data_root = "data/imagenet/"
file_client_args = dict(backend="disk")

view_pipeline = [
  dict(type="RandomResizedCrop", size=224, scale=(0.08, 1.0), backend="pillow"),
  dict(type="RandomFlip", prob=0.5),
  dict(
    type="RandomApply",
    transforms=[
      dict(
        type="ColorJitter",
        brightness=0.8,
        contrast=0.8,
        saturation=0.8,
        hue=0.2,
      )
    ],
    prob=0.8,
  ),
  dict(
    type="RandomGrayscale",
    prob=0.2,
    keep_channels=True,
    channel_weights=(0.114, 0.587, 0.2989),
  ),
  dict(type="RandomGaussianBlur", sigma_min=0.1, sigma_max=2.0, prob=0.5),
]
train_pipeline = [
  dict(type="LoadImageFromFile", file_client_args=file_client_args),
  dict(type="MultiView", num_views=2, transforms=[view_pipeline]),
  dict(type="PackSelfSupInputs", meta_keys=["img_path"]),
]

train_dataloader = dict(
  batch_size=32,
  num_workers=4,
  persistent_workers=True,
  sampler=dict(type="DefaultSampler", shuffle=True),
  collate_fn=dict(type="default_collate"),
  dataset=dict(
    type=dataset_type,
    data_root=data_root,
    ann_file="meta/train.txt",
    data_prefix=dict(img_path="train/"),
    pipeline=train_pipeline,
  ),
)
