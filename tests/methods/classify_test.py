"""The methods that learn from labels, against formulas and scikit-learn."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from sslx import experiment, methods, settings
from sslx.axis import Axis
from sslx.config import ConfigError
from sslx.data.sets import Arrays
from sslx.methods.base import Plan
from sslx.methods.run import Run
from sslx.models.classifier import Classifier
from tests import tiny

WHOLE = {"size": 12, "crop_scale": (1.0, 1.0), "crop_ratio": (1.0, 1.0),
         "flip": 0.0}  # fmt: skip
DECAY = 0.05


def softmax(x):
  x = np.exp(x - x.max(-1, keepdims=True))
  return x / x.sum(-1, keepdims=True)


def test_a_linear_probe_becomes_scikit_learns_logistic_regression():
  """Gradient descent on all images, in one batch, of whole images."""
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (64, 12, 12, 3), dtype=np.uint8)
  labels = np.arange(64, dtype=np.int32) % 4
  config = tiny.method_config(
    "linear",
    backbone="flat",
    views=(WHOLE,),
    data__batch_size=64,
    model__features=("final",),
    model__classifier__norm=False,
    model__classifier__classes=4,
    schedule__epochs=400,
    schedule__optimizer__weight_decay=DECAY,
    schedule__optimizer__exclude_1d=True,
  )
  made = experiment.build(
    config, jax.devices()[:1], (Arrays(images, labels, 4),) * 2
  )
  state = made.init_state()
  before = jax.device_get(state.params["backbone"])
  features = method_features(made, state, images)
  scale = np.float32(1 / np.abs(features).max())
  state = state.replace(  # Features of about 1, so that a rate of 1 is stable.
    params=state.params
    | {"backbone": jax.tree.map(lambda x: x * scale, before)}
  )
  kept = jax.device_get(state.params["backbone"])
  (batch,) = tiny.batches(made, 1)
  step = made.compiled_step()
  for _ in range(400):
    state, metrics = step(state, batch)
  tiny.assert_close(jax.device_get(state.params["backbone"]), kept, 0)

  x = features * scale
  theirs = LogisticRegression(C=1 / (DECAY * 64), tol=1e-8, max_iter=10_000)
  theirs.fit(x, labels)
  mine = jax.device_get(state.params["classifier"]["final_0"])
  found = softmax(x @ mine["kernel"] + mine["bias"])
  np.testing.assert_allclose(found, theirs.predict_proba(x), atol=2e-3)
  assert metrics["top1"] == pytest.approx(theirs.score(x, labels))
  # The evaluation names the same classes, best first.
  top5 = jax.device_get(
    made.step.method.encode(state.params, state.model_state, normal(images))
  )["top5/final_0"]
  assert top5.shape == (64, 4)
  np.testing.assert_array_equal(top5[:, 0], theirs.predict(x))


def normal(images):
  mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
  return jnp.float32((images / 255 - mean) / std)


def method_features(made, state, images):
  found = made.step.method.encode(
    state.params, state.model_state, normal(images)
  )
  return np.asarray(found["final"], np.float64)


def test_classifiers_side_by_side_learn_as_if_alone():
  rng = np.random.default_rng(1)
  x = {
    "cls": rng.normal(3, 2, (16, 6)),
    "cls4+pooled": rng.normal(size=(16, 9)),
  }
  x = {name: jnp.float32(value) for name, value in x.items()}
  module = Classifier(classes=3, copies=2, norm=True)
  params, state = (
    module.init(jax.random.key(0), x, train=False)[k]
    for k in ("params", "batch_stats")
  )
  assert params.keys() == {"cls_0", "cls_1", "cls4+pooled_0", "cls4+pooled_1"}
  logits, updated = module.apply(
    {"params": params, "batch_stats": state},
    x, train=True, mutable=["batch_stats"],
  )  # fmt: skip
  for name, value in x.items():
    value = np.asarray(value, np.float64)
    unit = (value - value.mean(0)) / np.sqrt(value.var(0) + 1e-6)
    for i in range(2):
      own = params[f"{name}_{i}"]
      assert not own["bias"].any()
      np.testing.assert_allclose(
        logits[f"{name}_{i}"], unit @ np.asarray(own["kernel"]), atol=1e-5
      )
    mean = updated["batch_stats"][f"{name}_bn"]["mean"]
    np.testing.assert_allclose(mean, 0.1 * value.mean(0), rtol=1e-4)


def finetune(**settings_):
  config = tiny.method_config("finetune", backbone="flat", **settings_)
  return methods.build(config.model, Plan(16, 4, 8))


def test_the_loss_of_fine_tuning_is_the_cross_entropy_of_smooth_targets():
  method = finetune(model__smoothing=0.2)
  rng = np.random.default_rng(2)
  views = (jnp.float32(rng.normal(size=(16, 12, 12, 3))),)
  labels = jnp.arange(16) % 10
  labels = labels.at[3].set(-1)  # An image without label counts as loss 0.
  params, state, aux = method.init(jax.random.key(0), {"views": views})
  batch = {"views": views, "label": labels}
  run = Run(
    method, params, state, aux, batch, jax.random.key(0), jnp.int32(0), Axis()
  )
  loss, output = run.loss()
  own = params["classifier"]["final_0"]
  logits = np.asarray(output.features) @ np.asarray(own["kernel"])
  targets = np.full((16, 10), 0.2 / 10)
  targets[np.arange(16), labels] += 0.8
  targets[3] = 0
  expected = -(targets * np.log(softmax(logits))).sum(-1).mean()
  np.testing.assert_allclose(loss, expected, rtol=1e-5)
  hits = np.mean(logits.argmax(-1) == np.asarray(labels))
  assert output.metrics["top1"] == pytest.approx(hits)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"model.features": ("cls4",)}, "has no class tokens"),
    ({"model.features": ("cls2", "cls4")}, r"of \[2, 4\] blocks; one number"),
    ({"model.classifier.classes": 7}, "is 7, but the training set has 10"),
    ({"model.classifier.copies": 2}, "copies.* 1 where the network is trained"),
    ({"model.features": ("final", "stage3")}, "features.* one name"),
  ],
)
def test_what_does_not_fit_is_refused(change, message):
  config = tiny.method_config("finetune", backbone="flat")
  with config.unlocked(), config.ignore_type():
    config.update_from_flattened_dict(change)
    if "one number" in message:
      config.model.method = "linear"
      for key in ("smoothing", "mix", "erase"):
        del config.model[key]
  with pytest.raises((ConfigError, ValueError), match=message):
    tiny.build_method(config)


def test_accuracy_of_several_classifiers_is_that_of_the_best():
  from sslx.evaluate.encoder import Features
  from sslx.evaluate.evaluators import Classification

  rng = np.random.default_rng(3)
  ranked = {
    name: np.stack([rng.permutation(7)[:5] for _ in range(24)])
    for name in ("top5/cls_0", "top5/cls_1")
  }
  labels = rng.integers(0, 7, 24).astype(np.int32)
  labels[-3:] = -1
  rows = {name: jnp.asarray(x.reshape(3, 8, 5)) for name, x in ranked.items()}
  found = Features(rows, jnp.asarray(labels.reshape(3, 8)))
  results = Classification(tuple(ranked))(None, {"test": found})
  share = lambda name, k: np.mean(
    [labels[i] in ranked[name][i][:k] for i in range(21)]
  )
  top1 = {name: share(name, 1) for name in ranked}
  best = max(top1, key=top1.get)
  assert results == pytest.approx(
    {
      "top1": top1[best],
      "top5": share(best, 5),
      "top1/cls_0": top1["top5/cls_0"],
      "top1/cls_1": top1["top5/cls_1"],
    }
  )


def test_rates_of_dinov2s_classifiers_are_those_of_its_grid():
  config = settings.load(
    "sslx:benchmarks/vit-base-p16_linear-dinov2-8xb128-coslr-12500it_in1k.py"
  )
  optimizer = settings.build(
    settings.Schedule, config.schedule, "schedule"
  ).optimizer
  grid = (1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 0.01, 0.02,
          0.05, 0.1)  # fmt: skip
  for i, rate in enumerate(grid):
    path = f"classifier/cls4+pooled_{i}/kernel"
    assert optimizer.lr * optimizer.of("lr", path) == pytest.approx(rate)
  assert config.model.classifier.copies == len(grid)
  assert dataclasses.is_dataclass(optimizer)
