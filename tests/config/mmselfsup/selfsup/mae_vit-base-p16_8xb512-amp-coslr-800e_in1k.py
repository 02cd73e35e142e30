_base_ = [
  "../_base_/models/mae_vit-base-p16.py",
  "../_base_/datasets/imagenet_mae.py",
  "../_base_/schedules/adamw_coslr-300e.py",
  "../_base_/default_runtime.py",
]

train_dataloader = dict(batch_size=512, num_workers=8)

optimizer = dict(
  type="AdamW", lr=1.5e-4 * 4096 / 256, betas=(0.9, 0.95), weight_decay=0.05
)
optim_wrapper = dict(
  type="AmpOptimWrapper",
  loss_scale="dynamic",
  optimizer=optimizer,
  paramwise_cfg=dict(
    custom_keys={
      "ln": dict(decay_mult=0.0),
      "bias": dict(decay_mult=0.0),
      "pos_embed": dict(decay_mult=0.0),
      "mask_token": dict(decay_mult=0.0),
      "cls_token": dict(decay_mult=0.0),
    }
  ),
)

param_scheduler = [
  dict(
    type="LinearLR",
    start_factor=1e-4,
    by_epoch=True,
    begin=0,
    end=40,
    convert_to_iter_based=True,
  ),
  dict(
    type="CosineAnnealingLR",
    T_max=760,
    by_epoch=True,
    begin=40,
    end=800,
    convert_to_iter_based=True,
  ),
]
train_cfg = dict(max_epochs=800)

randomness = dict(seed=0, diff_rank_seed=True)
