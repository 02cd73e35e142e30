optimizer = dict(type="SGD", lr=0.1, weight_decay=1e-4, momentum=0.9)
optim_wrapper = dict(type="OptimWrapper", optimizer=optimizer)

param_scheduler = [
  dict(type="MultiStepLR", by_epoch=True, milestones=[60, 120, 160], gamma=0.1)
]

train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=200)
