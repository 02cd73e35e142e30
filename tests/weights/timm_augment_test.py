"""RandAugment's arguments and Mixup's targets against timm itself."""

import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sslx.data import mix, randaugment
from sslx.data.pillow import Op

reason = "needs timm: pip install -e '.[torch]'"
auto_augment = pytest.importorskip("timm.data.auto_augment", reason=reason)
mixup = pytest.importorskip("timm.data.mixup", reason=reason)
torch = pytest.importorskip("torch", reason=reason)


def test_the_operations_and_their_arguments(monkeypatch):
  names = auto_augment._RAND_INCREASING_TRANSFORMS
  plain = lambda name: name.lower().replace("increasing", "").replace("rel", "")
  ours = [op.name.lower().replace("_", "") for op in Op]
  assert [plain(x).replace("color", "colour") for x in names] == ours
  magnitudes = [*range(11), *np.random.default_rng(0).uniform(0, 10, 50)]
  for sign in (-1.0, 1.0):
    monkeypatch.setattr(random, "random", lambda s=sign: 0.5 - s * 0.4)
    found = randaugment.arguments(jnp.float32(magnitudes), jnp.float32(sign))
    for op, name in zip(Op, names, strict=True):
      of_level = auto_augment.LEVEL_TO_ARG[name]
      wanted = [of_level(m, {})[0] if of_level else 0 for m in magnitudes]
      np.testing.assert_allclose(found[:, op], wanted, rtol=1e-5, atol=1e-5)


def test_the_defaults_are_those_of_the_recipe():
  made = auto_augment.rand_augment_transform("rand-m9-mstd0.5-inc1", {})
  settings = randaugment.RandAugment()
  assert made.num_layers == settings.n and len(made.ops) == len(Op)
  for op in made.ops:
    assert op.prob == randaugment._APPLIED
    assert (op.magnitude, op.magnitude_std) == (9, 0.5)
    assert settings.magnitude == 9 and settings.std == 0.5


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_targets_are_those_of_mixup(share):
  labels = np.int32([3, 1])  # Of two images, timm's other one is ours.
  wanted = mixup.mixup_target(
    torch.from_numpy(labels), 7, lam=share, smoothing=0.1
  )
  truth = mix.targets(labels, 7, 0.1)
  images = np.zeros((2, 4, 4, 3), np.float32)
  key = jax.random.key(0)
  with pytest.MonkeyPatch.context() as patch:
    fixed = lambda *_: (jnp.full((4, 4), share), share)
    patch.setattr(mix, "draw", fixed)
    _, found = mix.mix(mix.Mix(), images, truth, key)
  np.testing.assert_allclose(found, wanted, atol=1e-6)
