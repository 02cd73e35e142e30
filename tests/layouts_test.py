"""Sharded parameters and accumulated gradients change no result."""

import contextlib
import re

import jax
import numpy as np
import pytest

from sslx import checkpoint, parallel, settings
from sslx import experiment as experiment_lib
from sslx.benchmark import work
from sslx.config import ConfigError
from tests import tiny
from tests.naive import assert_near
from tests.step_test import three_steps

LAYOUTS = {
  "fsdp": {"rules": "fsdp"},
  "tensor": {"mesh": (("data", 4), ("model", 2))},
  "both": {"rules": "fsdp", "mesh": (("data", 4), ("model", 2))},
}


def config_of(method, layout, **changes):
  for key, value in LAYOUTS.get(layout, {}).items():
    changes[f"runtime__parallel__{key}"] = value
  return tiny.vit_config(method, **changes)


def assert_same_steps(new, old):
  (_, metrics, state), (_, old_metrics, old_state) = new, old
  tiny.assert_close(metrics, old_metrics, 5e-3)
  for part in ("params", "opt_state", "aux"):
    assert_near(getattr(state, part), getattr(old_state, part), 1e-2)


@pytest.fixture(scope="module")
def reference():
  return {
    method: three_steps(config_of(method, "replicated"), 1)
    for method in ("mae", "mocov3")
  }


@pytest.fixture
def small_is_sharded(monkeypatch):
  monkeypatch.setattr(parallel, "FSDP_MIN_SIZE", 64)


@pytest.mark.slow
@pytest.mark.parametrize(
  ("method", "layout"),
  [("mae", "fsdp"), ("mae", "tensor"), ("mocov3", "fsdp"), ("mocov3", "both")],
)
def test_layouts_agree_on_three_steps(
  reference, small_is_sharded, method, layout
):
  config = config_of(method, layout)
  shardings = experiment_lib.build(config).state_shardings
  for tree in ("params", "opt_state", *(["aux"] * (method == "mocov3"))):
    leaves = jax.tree.leaves(getattr(shardings, tree))
    assert not all(leaf.is_fully_replicated for leaf in leaves), tree
  start = reference[method][0]
  assert_same_steps(three_steps(config, 8, start), reference[method])


@pytest.mark.slow
def test_a_block_takes_four_sums_over_the_model_axis_and_moves_no_batch():
  """Two forward and two backward, as in Megatron-LM, figure 4."""
  config = config_of("mae", "tensor", model__decoder__depth=1)
  text = work.compile_step(experiment_lib.build(config)).as_text()
  # 4 of 16 images on a device; the encoder has 1 + 4 tokens.
  sums = re.findall(r"= f32\[4,5,32\]\S* all-reduce\(", text)
  assert len(sums) == 4 * 2
  assert not re.search(r" (all-gather|all-to-all)\(", text)


@pytest.mark.slow
def test_features_are_evaluated_on_sharded_parameters(small_is_sharded):
  config = config_of("mae", "both")
  experiment = experiment_lib.build(config)
  results, pictures = experiment.online.run(experiment.init_state())
  alone = experiment_lib.build(
    config_of("mae", "replicated"), jax.devices()[:1]
  )
  expected, same = alone.online.run(alone.init_state())
  assert set(results) == set(expected)
  assert {"knn_20", "pooled_knn_20", "cls+pooled_knn_20"} <= set(results)
  for key, value in expected.items():
    assert results[key] == pytest.approx(value, rel=0.01, abs=0.003), key
  same = same["reconstructions"]
  assert same.shape == (3 * 32, 8 * 32, 3) and same.dtype == np.uint8
  np.testing.assert_allclose(
    pictures["reconstructions"].astype(int), same.astype(int), atol=2
  )


@pytest.mark.parametrize(
  ("written", "layouts"),
  [
    ("replicated", ("replicated", "both")),
    ("both", ("replicated", *LAYOUTS)),
  ],
)
@pytest.mark.slow
def test_a_checkpoint_restores_in_every_layout(
  reference, small_is_sharded, tmp_path, written, layouts
):
  def checkpoints():
    settings = checkpoint.Checkpoint()
    opened = checkpoint.Checkpoints(tmp_path / "checkpoints", settings, 10)
    return contextlib.closing(opened)

  abstract = experiment_lib.build(config_of("mocov3", written)).abstract_state
  saved = jax.device_put(
    reference["mocov3"][2], jax.tree.map(lambda x: x.sharding, abstract)
  )
  with checkpoints() as opened:
    opened.save(3, saved, {"next_index": 3})
    opened.wait()
  for layout in layouts:
    target = experiment_lib.build(config_of("mocov3", layout)).abstract_state
    with checkpoints() as opened:
      loaded, _ = opened.restore(target)
    jax.tree.map(np.testing.assert_array_equal, loaded, saved)
    jax.tree.map(lambda x, y: x.sharding == y.sharding or 1 / 0, loaded, target)


def relative_loc(**changes):
  changes |= {
    "model.backbone.width": 0.125,
    "model.backbone.zero_init_residual": True,
    "model.head.hidden": 32,
    "data.batch_size": tiny.BATCH,
    "schedule.epochs": 1,
    "schedule.lr.warmup": 0.0,
  }
  config = settings.load(
    f"{tiny.ROOT}/configs/relative_loc.py:quickstart",
    [(key.replace("__", "."), repr(x)) for key, x in changes.items()],
  ).unlock()
  config.schedule.optimizer.eps = 1e-3
  return config


@pytest.mark.parametrize(
  ("mode", "devices", "parts"),
  [
    ("pjit", 4, 2),
    pytest.param("pjit", 1, 4, marks=pytest.mark.slow),
    pytest.param("pmap", 2, 4, marks=pytest.mark.slow),
  ],
)
def test_mae_does_not_depend_on_micro_batches(reference, mode, devices, parts):
  config = config_of(
    "mae",
    "replicated",
    runtime__parallel__mode=mode,
    schedule__accumulate=parts,
  )
  start = reference["mae"][0]
  _, metrics, state = three_steps(config, devices, start)
  tiny.assert_close(metrics, reference["mae"][1], 1e-4)
  tiny.assert_close(state, reference["mae"][2], 1e-3)


@pytest.fixture(scope="module")
def whole_relative_loc():
  return three_steps(relative_loc(), 1)


@pytest.mark.slow
@pytest.mark.parametrize(
  ("mode", "devices", "parts"), [("pjit", 2, 2), ("pmap", 2, 4)]
)
def test_relative_loc_does_not_depend_on_micro_batches_of_whole_groups(
  whole_relative_loc, mode, devices, parts
):
  config = relative_loc(
    runtime__parallel__mode=mode, schedule__accumulate=parts
  )
  start, old_metrics, old_state = whole_relative_loc
  _, metrics, state = three_steps(config, devices, start)
  tiny.assert_close(metrics[0], old_metrics[0], 1e-4)
  tiny.assert_close(metrics, old_metrics, 5e-3)
  # Running statistics too, which a micro-batch moves by its share.
  tiny.assert_close(state, old_state, 1e-2)


@pytest.mark.parametrize(
  ("config", "devices", "message"),
  [
    (
      lambda: tiny.config(schedule__accumulate=2),
      1,
      "accumulate is 2, but SimCLR does not declare .* Use 1",
    ),
    (
      lambda: tiny.vit_config("mocov3", schedule__accumulate=2),
      1,
      "accumulate is 2, but MoCoV3 does not declare",
    ),
    (
      lambda: tiny.vit_config("mae", schedule__accumulate=3),
      1,
      "batch_size 16 does not divide evenly into that many micro-batches",
    ),
    (
      lambda: relative_loc(schedule__accumulate=2),
      8,
      "norm_groups=8 share .* a device has 1 of these groups, .* would cut",
    ),
    (
      lambda: tiny.vit_config("mae", schedule__accumulate=0),
      1,
      "accumulate is 0; it must be at least 1",
    ),
  ],
)
def test_micro_batches_that_would_change_the_result_are_refused(
  config, devices, message
):
  with pytest.raises(ConfigError, match=message):
    experiment_lib.build(config(), jax.devices()[:devices])
