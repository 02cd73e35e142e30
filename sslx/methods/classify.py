"""What the methods that learn from labels share: classifiers and their loss.

They evaluate a network that another run has trained: `linear` and `finetune`.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from sslx.config import ConfigError
from sslx.data import mix
from sslx.methods.base import Method, chain
from sslx.methods.run import Aux, Batch, ModelState, Params
from sslx.models import classifier

TOP = 5  # classes that an evaluation keeps of each image


@dataclasses.dataclass(frozen=True, kw_only=True)
class Classify(Method):
  """A backbone with linear classifiers of its features.

  Attributes:
    classifier: the classifiers.
    features: names of the features that are classified, each by classifiers of
      its own: those of `Method.encode`; or "cls4" and "cls4+pooled", the class
      tokens of the last 4 blocks of a ViT.
  """

  num_views = (1, 1)
  # The loss is a mean over examples; only BatchNorm groups couple them.
  accumulates = True

  classifier: classifier.Classifier
  features: tuple[str, ...] = ("final",)

  def __post_init__(self):
    given, found = self.classifier.classes, self.plan.classes
    if found not in (None, given):
      raise ConfigError(
        f"config.model.classifier.classes is {given}, but the training set has"
        f" {found} classes. Set that number."
      )
    if not self.last:
      return
    here = f"config.model.features={self.features}"
    if not getattr(self.backbone, "class_token", False):
      raise ConfigError(f"{here}: this backbone has no class tokens.")
    depth, last = self.backbone.sizes[1], self.last["last"]
    if last > depth:
      raise ConfigError(
        f"{here} takes the class tokens of {last} blocks; this backbone has"
        f" {depth}."
      )

  @property
  def last(self) -> dict[str, int]:
    """The argument `last` of a ViT for these features; else nothing."""
    numbers = {
      int(match[1])
      for match in map(re.compile(r"cls(\d+)").match, self.features)
      if match
    }
    if len(numbers) > 1:
      raise ConfigError(
        f"config.model.features={self.features} has class tokens of"
        f" {sorted(numbers)} blocks; one number of blocks is possible, beside"
        " 'cls'."
      )
    return {"last": numbers.pop()} if numbers else {}

  def draw(
    self, rng: jax.Array, batch: Batch
  ) -> tuple[Params, ModelState, Aux]:
    """Draws the backbone, and the classifiers for its features."""
    (x,) = batch["views"]
    rng_backbone, rng_classifier = jax.random.split(rng)
    params, state = chain({"backbone": self.backbone}, rng_backbone, x)
    found = jax.eval_shape(self._backbone, params, state, x)
    wrong = [name for name in self.features if name not in found]
    if wrong:
      raise ConfigError(
        f"config.model.features has {wrong[0]!r}; this backbone has"
        f" {', '.join(map(repr, found))}."
      )
    blank = {name: jnp.zeros(found[name].shape) for name in self.features}
    more, more_state = chain(
      {"classifier": self.classifier}, rng_classifier, blank
    )
    return params | more, state | more_state, {}

  def _backbone(
    self, params: Params, state: ModelState, x: jax.Array
  ) -> dict[str, jax.Array]:
    """Computes all features, with running statistics: f32[b, d] by name."""
    variables = {"params": params["backbone"], "batch_stats": state["backbone"]}
    return self.backbone.apply(
      variables, x, train=False, every=True, **self.last
    )

  def encode(
    self, params: Params, model_state: ModelState, images: jax.Array
  ) -> dict[str, jax.Array]:
    """Computes features, and the classes that the classifiers find.

    Returns:
      Besides the features, "top5/<name>": int32[b, 5], the most probable
      classes by each classifier, best first; fewer if there are fewer classes.
    """
    features = self._backbone(params, model_state, images)
    variables = {
      "params": params["classifier"],
      "batch_stats": model_state["classifier"],
    }
    given = {name: features[name] for name in self.features}
    logits = self.classifier.apply(variables, given, train=False)
    best = min(TOP, self.classifier.classes)
    return features | {
      f"top{TOP}/{name}": jax.lax.top_k(x, best)[1]
      for name, x in logits.items()
    }

  def cross_entropy(
    self, logits: Mapping[str, jax.Array], targets: jax.Array
  ) -> jax.Array:
    """Returns the loss: the sum of the classifiers' mean cross-entropies.

    No parameter is shared, so each classifier learns as if it were alone.

    Args:
      logits: f32[b, classes] by classifier.
      targets: f32[b, classes], probabilities; all 0 for an image without label.
    """
    losses = [
      jnp.mean(optax.softmax_cross_entropy(x, targets)) for x in logits.values()
    ]
    return sum(losses)

  def targets(self, labels: jax.Array, smoothing: float = 0.0) -> jax.Array:
    """Returns f32[b, classes], see `mix.targets`; all 0 for the label -1."""
    return mix.targets(labels, self.classifier.classes, smoothing)


def hits(logits: Mapping[str, Any], labels: jax.Array) -> jax.Array:
  """Returns the share of right answers, a mean over all classifiers."""
  right = [jnp.mean(jnp.argmax(x, -1) == labels) for x in logits.values()]
  return sum(right) / len(right)
