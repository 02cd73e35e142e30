_base_ = "common.py"
patch_size = 16
total = 800
train_dataloader = dict(
  batch_size=512,
  dataset=dict(
    pipeline=[
      _base_.unpack,
      dict(
        type="RandomResizedCrop",
        backend="pillow",
        interpolation="bicubic",
        scale=(0.2, 1.0),
        size=224,
      ),
      _base_.flip,
      _base_.pack,
    ]
  ),
)

model = dict(
  type="MAE",
  backbone=dict(
    type="MAEViT", arch="b", mask_ratio=0.75, patch_size=patch_size
  ),
  neck=dict(
    type="MAEPretrainDecoder",
    decoder_depth=8,
    decoder_embed_dim=512,
    decoder_num_heads=16,
    embed_dim=768,
    mlp_ratio=4.0,
    patch_size=patch_size,
  ),
  head=dict(
    type="MAEPretrainHead",
    loss=dict(type="MAEReconstructionLoss"),
    norm_pix=True,
    patch_size=patch_size,
  ),
  init_cfg=[
    dict(type="Xavier", layer="Linear", distribution="uniform"),
    dict(type="Constant", layer="LayerNorm", bias=0.0, val=1.0),
  ],
)

spared = dict(decay_mult=0.0)
optim_wrapper = dict(
  type="AmpOptimWrapper",
  optimizer=dict(
    type="AdamW", betas=(0.9, 0.95), lr=1.5e-4 * 4096 / 256, weight_decay=0.05
  ),
  paramwise_cfg=dict(
    custom_keys=dict(bias=spared, cls_token=spared, ln=spared, pos_embed=spared)
  ),
)
param_scheduler = [
  dict(type="LinearLR", convert_to_iter_based=True, end=40, start_factor=1e-4),
  dict(
    type="CosineAnnealingLR",
    T_max=total - 40,
    begin=40,
    convert_to_iter_based=True,
  ),
]
train_cfg = dict(max_epochs=total)
