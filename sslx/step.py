"""One training step: the same code for every method and both parallel modes."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

from sslx import monitors
from sslx.axis import Axis
from sslx.data import augment, operations
from sslx.data import views as views_lib
from sslx.data.views import Slot, View
from sslx.evaluate.probe import OnlineProbe
from sslx.methods.base import Method
from sslx.methods.run import Output, Run
from sslx.state import TrainState


@dataclasses.dataclass(frozen=True)
class TrainStep:
  """The parts of a training step; holds no arrays.

  Attributes:
    method: the loss, and the changes after an update.
    optimizer: optimiser of `state.params`.
    learning_rate: maps a step to the learning rate, for the log.
    probe: linear classifier trained on the features, or None.
    views: the views to make of each image.
    slots: which views the method is given, and in which order.
    mean: mean of each channel, for images in [0, 1].
    std: standard deviation of each channel, for images in [0, 1].
    accumulate: number of micro-batches that a batch is cut into, processed one
      after another.
  """

  method: Method
  optimizer: optax.GradientTransformation
  learning_rate: optax.Schedule
  probe: OnlineProbe | None
  views: tuple[View, ...]
  slots: tuple[Slot, ...]
  mean: tuple[float, ...]
  std: tuple[float, ...]
  accumulate: int = 1

  def init(self, rng: jax.Array) -> TrainState:
    """Returns the state of step 0; it does not depend on the devices."""
    _, rng_probe, _ = jax.random.split(rng, 3)
    batch = example_batch(self.views, self.slots, self.channels)
    rng_method = method_rng(rng)
    params, model_state, aux = self.method.init(rng_method, batch)
    probe = None
    if self.probe is not None:
      features = self.abstract_features(params, model_state, aux)
      probe = self.probe.init(rng_probe, features["final"].shape[-1])
    return TrainState(
      step=jnp.int32(0),
      params=params,
      model_state=model_state,
      opt_state=self.optimizer.init(params),
      aux=aux,
      probe=probe,
      rng=first_rng(rng),
    )

  @property
  def channels(self) -> int:
    """Of the images that the network is given."""
    return len(self.mean)

  def view_shape(self, slot: Slot) -> tuple[int, ...]:
    """Returns the shape of one example of a slot."""
    return views_lib.each(self.views)[slot.view].shape(self.channels)

  def abstract_features(
    self, params: Any, model_state: Any, aux: Any
  ) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the shapes of `method.encode` of two images."""
    network = self.method.of_network(params, model_state, aux)
    size = self.views[0].size
    shape = (2, size, size, self.channels)
    blank = jax.ShapeDtypeStruct(shape, jnp.float32)
    return jax.eval_shape(self.method.encode, *network, blank)

  def preprocess(
    self, batch: dict[str, Any], rng: jax.Array, axis: Axis
  ) -> tuple[jax.Array, ...]:
    """Makes normalised views, f32[b, *view_shape] per slot; see `__call__`."""
    # Keys depend on the place in the global batch, so augmentation of an image
    # does not depend on its device or row.
    places = axis.positions(len(batch["label"])), batch.get("place")
    images = batch.get("image"), batch.get("shuffled_image")
    views, kinds = [], views_lib.each(self.views)
    drawn = views_lib.drawn(self.views)
    for n, slot in enumerate(self.slots):
      view = kinds[slot.view]
      keys = augment.example_keys(rng, places[slot.shuffled])
      keys = augment.fold(keys, drawn[slot.view])
      if "views" in batch:
        cut = batch["views"][n]
      else:
        cut = view.cut(images[slot.shuffled], keys)
      coloured = axis.by_example(view.colour, cut, keys)
      scale = view.mean or self.mean, view.std or self.std
      views.append(operations.normalize(coloured, *scale))
    return tuple(views)

  def __call__(
    self, state: TrainState, batch: dict[str, Any], axis: Axis
  ) -> tuple[TrainState, dict[str, jax.Array]]:
    """Takes one step.

    Args:
      state: the state before the step.
      batch: this device's rows of `loader.HostBatch.arrays`.
      axis: identity in the global view, collectives in the per-device view.

    Returns:
      The state after the step, and f32 scalar metrics, the same on all devices.
    """
    if self.accumulate == 1:
      (loss, output), grads = self.gradients(state, batch, axis)
    else:
      (loss, output), grads = self._accumulated(state, batch, axis)
    updates, opt_state = self.optimizer.update(
      grads, state.opt_state, state.params
    )
    params = optax.apply_updates(state.params, updates)
    params, aux = self.method.after_update(
      params, state.aux, output.aux, state.step
    )

    grad_norm = optax.tree.norm(grads)
    metrics = {
      "loss": loss,
      "lr": self.learning_rate(state.step),
      "grad_norm": grad_norm,
      "finite": jnp.isfinite(loss) & jnp.isfinite(grad_norm),
      "feature_std": monitors.feature_std(output.features, axis),
      **axis.pmean(output.metrics),
    }
    probe = state.probe
    if self.probe is not None:
      probe, probe_metrics = self.probe.update(
        probe, output.features, batch["label"], axis
      )
      metrics |= probe_metrics
    return (
      state.replace(
        step=state.step + 1,
        params=params,
        model_state=output.model_state,
        opt_state=opt_state,
        aux=aux,
        probe=probe,
      ),
      metrics,
    )

  def gradients(
    self, state: TrainState, batch: dict[str, Any], axis: Axis
  ) -> tuple[tuple[jax.Array, Output], Any]:
    """Computes loss, output and gradient of the loss for these examples."""
    rng = jax.random.wrap_key_data(state.rng)
    rng_augment, rng_loss = step_keys(rng, state.step)
    views = self.preprocess(batch, rng_augment, axis)
    kept = ("index", "label", "back")
    batch = {"views": views, **{k: batch.get(k) for k in kept}}

    def loss_fn(params):
      run = Run(
        self.method, params, state.model_state, state.aux, batch, rng_loss,
        state.step, axis,
      )  # fmt: skip
      loss, output = run.loss()
      # Average over devices here and nowhere else. In the per-device view JAX
      # already sums the gradient of replicated parameters over devices.
      return axis.pmean(loss), output

    return jax.value_and_grad(loss_fn, has_aux=True)(state.params)

  def _accumulated(
    self, state: TrainState, batch: dict[str, Any], axis: Axis
  ) -> tuple[tuple[jax.Array, Output], Any]:
    """`gradients`, accumulated over micro-batches: means, and all features.

    Every micro-batch updates the running BatchNorm statistics from before the
    step. An update is linear in the statistics of the batch, so the mean over
    micro-batches equals the update by the whole batch. `experiment.build` has
    checked that no micro-batch cuts a BatchNorm group.
    """
    parts = self.accumulate

    def one(i: jax.Array) -> tuple[Any, jax.Array]:
      micro = jax.tree.map(lambda x: axis.micro_batch(x, i, parts), batch)
      (loss, output), grads = self.gradients(
        state, micro, dataclasses.replace(axis, part=(i, parts))
      )
      means = axis.pmean(output.metrics)
      rest = output._replace(metrics=means, features=None)
      return ((loss, rest), grads), output.features

    def add(total: Any, i: jax.Array) -> tuple[Any, jax.Array]:
      mine, features = one(i)
      return jax.tree.map(lambda a, b: a + b / parts, total, mine), features

    zeros = jax.tree.map(
      lambda x: jnp.zeros(x.shape, x.dtype),
      jax.eval_shape(one, jnp.int32(0))[0],
    )
    total, features = jax.lax.scan(add, zeros, jnp.arange(parts))
    (loss, rest), grads = total
    whole = rest._replace(features=axis.whole_batch(features))
    return (loss, whole), grads


def method_rng(rng: jax.Array) -> jax.Array:
  """Returns the key that a run that starts from this key draws weights by."""
  return jax.random.split(rng, 3)[0]


def first_rng(rng: jax.Array) -> jax.Array:
  """Returns `TrainState.rng` of a run that starts from this key."""
  return jax.random.key_data(jax.random.split(rng, 3)[2])


def step_keys(rng: jax.Array, step: Any) -> tuple[jax.Array, jax.Array]:
  """Returns the keys of one step, for its augmentation and its loss."""
  rng_augment, rng_loss = jax.random.split(jax.random.fold_in(rng, step))
  return rng_augment, rng_loss


def epoch_key(rng: jax.Array, step: Any) -> jax.Array:
  """Returns the key of what is done before the step that follows `step`."""
  return jax.random.fold_in(jax.random.fold_in(rng, step), 2)


def example_batch(
  views: tuple[View, ...], slots: tuple[Slot, ...], channels: int = 3
) -> dict[str, Any]:
  """Returns a batch of two blank images, with the shapes `init` needs."""
  kinds = views_lib.each(views)
  shapes = (kinds[slot.view].shape(channels) for slot in slots)
  blank = tuple(jnp.zeros((2, *shape)) for shape in shapes)
  return {"views": blank}
