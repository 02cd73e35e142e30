_base_ = "simclr_resnet50_8xb32-coslr-200e_in1k.py"

optimizer = dict(type="LARS", lr=4.8, weight_decay=1e-6, momentum=0.9)
optim_wrapper = dict(optimizer=optimizer)

train_dataloader = dict(batch_size=256)

param_scheduler = [
  dict(
    type="LinearLR",
    start_factor=1e-4,
    by_epoch=True,
    begin=0,
    end=10,
    convert_to_iter_based=True,
  ),
  dict(type="CosineAnnealingLR", T_max=790, by_epoch=True, begin=10, end=800),
]
train_cfg = dict(max_epochs=800)
