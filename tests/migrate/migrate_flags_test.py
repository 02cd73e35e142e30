"""What sslx has becomes a flag, and what it has not is told."""

import pytest

from tests import foreign

PIPELINE = "train_dataloader__dataset__pipeline"
VIEW = f"{PIPELINE}__1__transforms__0"  # the transforms of the first kind
RULES = "optim_wrapper__paramwise_cfg"


@pytest.mark.parametrize(
  ("name", "change", "key"),
  [
    ("mae_8xb512", {"param_scheduler__0__begin": 3}, "param_scheduler.0.begin"),
    (
      "mae_8xb512",
      {"param_scheduler__0__convert_to_iter_based": False},
      "param_scheduler.0.convert_to_iter_based",
    ),
    ("mae_8xb512", {"param_scheduler__1__begin": 5}, "param_scheduler.1.begin"),
    ("mae_8xb512", {"param_scheduler__1__end": 700}, "param_scheduler.1.end"),
    (
      "mae_8xb512",
      {"param_scheduler__1__T_max": 80},
      "param_scheduler.1.T_max",
    ),
    (
      "mae_8xb512",
      {"param_scheduler__1__by_epoch": False},
      "param_scheduler.1",
    ),
    (
      "mocov2_8xb32",
      {"param_scheduler__type": "PolyLR"},
      "param_scheduler",
    ),
    ("swav_8xb32", {"model__neck__type": "MyNeck"}, "model.neck"),
    ("swav_8xb32", {"model__head__type": "MyHead"}, "model.head.type"),
    (
      "simclr_8xb32",
      {"model__head__loss__type": "FocalLoss"},
      "model.head.loss.type",
    ),
    (
      "simclr_8xb32",
      {"model__neck__norm_cfg": {"type": "BN"}},
      "model.neck.norm_cfg.type",
    ),
    (
      "simclr_8xb32",
      {"optim_wrapper__accumulative_counts": 4},
      "optim_wrapper.accumulative_counts",
    ),
    ("simclr_8xb32", {"load_from": "a.pth"}, "load_from"),
    (
      "simclr_8xb32",
      {f"{VIEW}__1": {"type": "CutOut", "size": 3}},
      f"{VIEW}.1",
    ),
    (  # The second of its kind.
      "simclr_8xb32",
      {f"{VIEW}__4": {"type": "RandomFlip", "prob": 0.5}},
      f"{VIEW}.4",
    ),
    (  # Grey before colours.
      "simclr_8xb32",
      {
        f"{VIEW}__1": {
          "type": "RandomGrayscale",
          "keep_channels": True,
          "channel_weights": (0.114, 0.587, 0.2989),
        }
      },
      f"{VIEW}.2.transforms.0.type",
    ),
    (
      "simclr_8xb32",
      {f"{VIEW}__2__transforms__0__hue": (-0.1, 0.2)},
      f"{VIEW}.2.transforms.0.hue",
    ),
    (
      "simclr_8xb32",
      {f"{VIEW}__0__backend": "cv2"},
      f"{VIEW}.0.backend",
    ),
    (
      "simclr_8xb32",
      {"model__backbone__frozen_stages": 4},
      "model.backbone.frozen_stages",
    ),
  ],
)
def test_what_sslx_cannot_say_is_told_by_its_key(name, change, key):
  key = key.replace("__", ".")
  assert key not in foreign.told(foreign.migrated(name))
  assert key in foreign.told(foreign.migrated(name, **change))


@pytest.mark.parametrize(
  ("name", "change", "expected"),
  [
    ("mae_8xb512", {"model__head__norm_pix": False}, {"model.norm_pix": False}),
    (
      "mae_8xb512",
      {"model__neck__decoder_depth": 4, "model__neck__mlp_ratio": 2.0},
      {"model.decoder.depth": 4, "model.decoder.mlp_ratio": 2.0},
    ),
    (
      "mae_8xb512",
      {"optim_wrapper__clip_grad": {"max_norm": 3.0}},
      {"schedule.optimizer.clip_norm": 3.0},
    ),
    (
      "mae_8xb512",
      {"optim_wrapper__type": "OptimWrapper"},
      {"model.dtype": "float32"},
    ),
    (
      "mae_8xb512",
      {"optim_wrapper__accumulative_counts": 2},
      {"schedule.accumulate": 2, "data.batch_size": 8192, "peak": 2.4e-3},
    ),
    (
      "mae_8xb512",
      {  # As MMPreTrain spells it.
        f"{PIPELINE}__1": {
          "type": "mmcls.RandomResizedCrop",
          "backend": "pillow",
          "crop_ratio_range": (0.3, 1.0),
          "scale": 192,
        }
      },
      {
        "data.views.0.size": 192,
        "data.views.0.crop_scale": (0.3, 1.0),
        "data.views.0.interpolation": "bilinear",
      },
    ),
    (
      "simclr_8xb32",
      {"model__neck__with_last_bn": False, "model__neck__with_last_bias": True},
      {"model.projector.last_norm": "none", "model.projector.use_bias": True},
    ),
    (
      "simclr_8xb32",
      {"optim_wrapper__optimizer": {"type": "SGD", "lr": 1.2}},
      {
        "schedule.optimizer.name": "sgd",
        "schedule.optimizer.momentum": 0.0,
        "schedule.optimizer.weight_decay": 0.0,
        "peak": 1.2,
      },
    ),
    (
      "simclr_8xb32",
      {
        f"{PIPELINE}__1__transforms": (
          ({"type": "RandomResizedCrop", "size": 224},),
        )
      },
      {
        "data.views.0.flip": 0.0,
        "data.views.0.jitter": (0.0, 0.0, 0.0, 0.0),
        "data.views.0.grey": 0.0,
        "data.views.0.blur": 0.0,
        "data.views.0.solarize": 0.0,
      },
    ),
    (  # Half of half of the views.
      "simclr_8xb32",
      {
        f"{VIEW}__4": {
          "type": "RandomApply",
          "transforms": (
            {"type": "RandomGaussianBlur", "sigma_min": 0.5, "sigma_max": 1.0},
          ),
        }
      },
      {"data.views.0.blur": 0.25, "data.views.0.blur_sigma": (0.5, 1.0)},
    ),
    (
      "mocov2_8xb32",
      {"model__backbone__norm_cfg__type": "SyncBN"},
      {"model.norm_groups": 1},
    ),
    ("mocov2_8xb32", {"param_scheduler": ()}, {"schedule.lr.kind": "constant"}),
    # MMEngine's average counts the new weights.
    ("mocov2_8xb32", {"model__momentum": 0.01}, {"model.momentum": 0.99}),
    (
      "mocov2_8xb32",
      {
        "model__backbone": {
          "type": "MoCoV3ViT",
          "arch": "deit-tiny",
          "patch_size": 8,
          "stop_grad_conv1": True,
        }
      },
      {
        "model.backbone.name": "vit",
        "model.backbone.variant": "tiny",
        "model.backbone.patch_size": 8,
        "model.backbone.weight_init": "xavier_qkv",
        "model.backbone.position_order": "row",
        "model.backbone.frozen_patches": True,
      },
    ),
    (
      "mocov3-vit_16xb256",
      {"model__backbone__arch": "small"},  # Of MMPreTrain, which is wide.
      {
        "model.backbone.variant": "base",
        "model.backbone.depth": 8,
        "model.backbone.heads": 8,
        "model.backbone.mlp_ratio": 3.0,
      },
    ),
    (
      "swav_8xb32",
      {"custom_hooks": ()},
      {
        "model.queue_size": 0,
        "schedule.optimizer.rules": (),
      },
    ),
    (
      "swav_8xb32",
      {"train_dataloader__batch_size": 512},  # Its queue is no whole batch.
      {"model.queue_size": 0, "data.batch_size": 4096},
    ),
  ],
)
def test_what_sslx_has_becomes_a_flag(name, change, expected):
  before = foreign.settings(foreign.migrated(name))
  found = foreign.settings(foreign.migrated(name, **change))
  assert {key: found[key] for key in expected} == expected
  assert any(before.get(key, ...) != found[key] for key in expected)


def test_another_number_of_kinds_of_views():
  """SwAV without its small crops."""
  views = foreign.values_of("swav_8xb32")
  views = views["train_dataloader"]["dataset"]["pipeline"][1]
  large = views | {"transforms": views["transforms"][:1], "num_views": (2,)}
  change = {f"{PIPELINE}__1": large}
  found = foreign.migrated("swav_8xb32", **change)
  values = foreign.settings(found)
  assert values["data.views.0.count"] == 2
  assert "data.views.1.count" not in values
  loss = "model.head.loss.num_crops"
  assert foreign.told(found)[loss] == "the pipeline makes (2,)"
  # With the loss told so, there is nothing to tell.
  change["model__head__loss__num_crops"] = (2,)
  found = foreign.migrated("swav_8xb32", **change)
  assert loss not in foreign.told(found)


def test_rules_by_words_in_names_of_parameters():
  words = {"bias": {"decay_mult": 0.0}, "backbone": {"lr_mult": 0.1}}
  found = foreign.migrated("mocov2_8xb32", **{RULES: {"custom_keys": words}})
  values = foreign.settings(found)
  rules = "schedule.optimizer.rules"
  assert values[f"{rules}.0.0"] == "backbone/"
  assert values[f"{rules}.0.1.lr"] == 0.1
  assert values[f"{rules}.1.0"] == "bias$"
  assert values[f"{rules}.1.1.exclude"] is True
  key = "optim_wrapper.paramwise_cfg.custom_keys.backbone"
  assert "does not keep out" in foreign.told(found)[key]


def test_norms_and_biases_without_decay():
  flat = {"norm_decay_mult": 0.0, "bias_decay_mult": 0.0}
  values = foreign.settings(foreign.migrated("mocov2_8xb32", **{RULES: flat}))
  assert values["schedule.optimizer.exclude_1d"] is True
  # LARS still scales them, if nobody says otherwise.
  values = foreign.settings(foreign.migrated("simclr_8xb32", **{RULES: flat}))
  assert values["schedule.optimizer.exclude_1d"] is False
  rules = {k: x for k, x in values.items() if ".rules." in k}
  (bias,) = [k for k, x in rules.items() if x == "bias$"]
  assert rules[f"{bias[:-1]}1.weight_decay"] == 0
