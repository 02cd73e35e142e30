"""Online linear probe: a classifier trained on the features during a run.

It needs no extra forward pass. It does not affect the method: no gradient flows
into the features, and the probe has its own optimiser.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax import lax

from sslx.axis import Axis
from sslx.config import require

# Weight of the past in the running statistics of the features. The features
# drift as the encoder learns, so the memory is short: about ten batches.
_MEMORY = 0.9


@dataclasses.dataclass(frozen=True)
class Probe:
  """Settings of the probe (config section `runtime.evaluate.probe`).

  Attributes:
    lr: constant learning rate of Adam. Inputs are standardised, so one value
      suits features of any scale and width. At 1e-3, on fixed features, the
      probe is close to the fully fitted classifier after 100 batches of 256.
  """

  lr: float = 1e-3

  def __post_init__(self):
    require(self, "lr", self.lr > 0, "positive")


@flax.struct.dataclass
class ProbeState:
  """State of the probe; the same on all devices.

  Attributes:
    params: {"kernel": f32[d, num_classes], "bias": f32[num_classes]}.
    opt_state: state of Adam.
    mean: f32[d], running mean of the features.
    var: f32[d], running variance of the features.
    step: i32[], updates taken.
  """

  params: dict[str, jax.Array]
  opt_state: Any
  mean: jax.Array
  var: jax.Array
  step: jax.Array


@dataclasses.dataclass(frozen=True)
class OnlineProbe:
  """Standardisation without scale or shift, then one linear layer.

  Standardisation without scale or shift follows MAE's linear protocol. Unlike
  MAE, training uses running statistics too, so that the logits of an image
  never depend on the rest of its batch.

  Attributes:
    num_classes: number of classes.
    settings: settings of the optimiser.
  """

  num_classes: int
  settings: Probe = Probe()

  @property
  def _optimizer(self) -> optax.GradientTransformation:
    return optax.adam(self.settings.lr)

  def init(self, rng: jax.Array, feature_dim: int) -> ProbeState:
    """Returns the initial state: kernel from N(0, 0.01^2), bias 0."""
    shape = (feature_dim, self.num_classes)
    params = {
      "kernel": 0.01 * jax.random.normal(rng, shape, jnp.float32),
      "bias": jnp.zeros(self.num_classes, jnp.float32),
    }
    return ProbeState(
      params=params,
      opt_state=self._optimizer.init(params),
      mean=jnp.zeros(feature_dim, jnp.float32),
      var=jnp.ones(feature_dim, jnp.float32),
      step=jnp.int32(0),
    )

  def logits(self, state: ProbeState, features: jax.Array) -> jax.Array:
    """Maps features [..., d] to logits f32[..., num_classes]."""
    # The 1e-6 keeps dead dimensions small. It starts to damp live dimensions
    # when their standard deviation falls to 1e-3.
    scale = lax.rsqrt(state.var + 1e-6)
    x = (features.astype(jnp.float32) - state.mean) * scale
    kernel, bias = state.params["kernel"], state.params["bias"]
    return jnp.dot(x, kernel, precision=lax.Precision.HIGHEST) + bias

  def update(
    self,
    state: ProbeState,
    features: jax.Array,
    labels: jax.Array,
    axis: Axis,
  ) -> tuple[ProbeState, dict[str, jax.Array]]:
    """Takes a step of Adam on the mean cross-entropy of the labelled rows.

    Args:
      state: the state before the step.
      features: [b, d]; no gradient flows into them.
      labels: i32[b] in [0, num_classes), or -1 to ignore the row.
      axis: the data axis.

    Returns:
      The state after the step; f32 scalars "probe_loss" and "probe_accuracy" of
      the global batch, with the parameters from before the step. Without a
      labelled row, the state does not change and both scalars are 0.
    """
    features = lax.stop_gradient(features).astype(jnp.float32)
    valid = labels >= 0
    rows = axis.psum(jnp.sum(valid, dtype=jnp.int32))

    def mean(x):
      """Averages over the labelled rows of the global batch."""
      mask = valid.reshape(-1, *[1] * (x.ndim - 1))
      return axis.psum(jnp.sum(x, axis=0, where=mask)) / jnp.maximum(rows, 1)

    batch_mean = mean(features)
    batch_var = mean(jnp.square(features - batch_mean))
    # Mean and variance of a mixture of past and batch. The first weights make
    # it a plain average, so that the initial values leave no trace.
    step = state.step + 1
    share = jnp.maximum(1 / step, 1 - _MEMORY)
    drift = batch_mean - state.mean
    new = state.replace(
      mean=state.mean + share * drift,
      var=(1 - share) * (state.var + share * drift**2) + share * batch_var,
      step=step,
    )

    def loss_fn(params):
      logits = self.logits(new.replace(params=params), features)
      loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
      return mean(loss), mean((jnp.argmax(logits, axis=-1) == labels) * 1.0)

    # The loss is global, so the gradient is global in both views, too: in the
    # per-device view, JAX sums gradients of replicated parameters over devices.
    (loss, accuracy), grads = jax.value_and_grad(loss_fn, has_aux=True)(
      state.params
    )
    updates, opt_state = self._optimizer.update(grads, state.opt_state)
    new = new.replace(
      params=optax.apply_updates(state.params, updates), opt_state=opt_state
    )
    new = jax.tree.map(lambda a, b: jnp.where(rows > 0, a, b), new, state)
    return new, {"probe_loss": loss, "probe_accuracy": accuracy}
