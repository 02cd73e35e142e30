"""What happens before the first step of an epoch: `Method.on_epoch`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from sslx.config import ConfigError
from sslx.data.sets import Images
from sslx.evaluate.encoder import Reader, of_method, unlabelled
from sslx.methods.base import Method
from sslx.methods.run import buffers_of
from sslx.state import TrainState
from sslx.step import epoch_key


class EpochStart:
  """Gives a method the features of the training set, and takes its buffers."""

  def __init__(
    self,
    method: Method,
    images: Images,
    reader: Reader,
    abstract_state: TrainState,
  ):
    """Prepares the functions; compiles nothing yet.

    Args:
      method: defines `on_epoch`.
      images: the training set.
      reader: reads it.
      abstract_state: the state as ShapeDtypeStructs with shardings.

    Raises:
      ConfigError: the method has no features of the name in `clusters`, or
        `on_epoch` does not return the buffers as they were.
    """
    self._method, self._images = method, unlabelled(images)
    self._encoder = of_method(method, (method.clusters,), reader)
    buffers = buffers_of(abstract_state.aux)
    _check(method, abstract_state, reader, len(images))
    self._renew = jax.jit(
      lambda *arguments: _renewed(method, *arguments),
      out_shardings=jax.tree.map(lambda x: x.sharding, buffers),
    )

  def __call__(
    self, state: TrainState, note: Callable[[str], None] = print
  ) -> TrainState:
    """Returns the state with new buffers; all processes call it together.

    Args:
      state: the state before the first step of an epoch; it is not donated.
      note: called once for each image that cannot be decoded.

    Raises:
      ConfigError: more images cannot be decoded than `config.data.max_bad`
        allows.
    """
    network = self._method.of_network(
      state.params, state.model_state, state.aux
    )
    found = self._encoder(network, self._images, note=note)
    features = found.rows[self._method.clusters]
    buffers = self._renew(
      features, found.labels, buffers_of(state.aux), state.rng, state.step
    )
    return state.replace(aux={**state.aux, **buffers})


def _renewed(
  method: Method,
  features: jax.Array,
  labels: jax.Array,
  buffers: Any,
  rng: jax.Array,
  step: jax.Array,
) -> Any:
  key = epoch_key(jax.random.wrap_key_data(rng), step)
  return method.on_epoch(features, labels >= 0, buffers, key)


def _check(
  method: Method, state: TrainState, reader: Reader, images: int
) -> None:
  """Checks by shapes alone what `on_epoch` is given, and what it returns."""
  name = type(method).__name__
  size, channels = reader.data.views[0].size, reader.data.channels
  blank = jax.ShapeDtypeStruct((2, size, size, channels), jnp.float32)
  network = method.of_network(state.params, state.model_state, state.aux)
  encoded = jax.eval_shape(method.encode, *network, blank)
  if method.clusters not in encoded:
    raise ConfigError(
      f"{name}.clusters is {method.clusters!r}; its features are"
      f" {', '.join(map(repr, encoded))}."
    )
  n, b = -(-images // reader.batch_size), reader.batch_size
  width = encoded[method.clusters].shape[-1]
  told = lambda x: f"{x.dtype}{list(x.shape)}"
  old = buffers_of(state.aux)
  new = jax.eval_shape(
    lambda *arguments: _renewed(method, *arguments),
    jax.ShapeDtypeStruct((n, b, width), jnp.float32),
    jax.ShapeDtypeStruct((n, b), jnp.int32),
    old,
    state.rng,
    state.step,
  )
  was, now = (
    {
      jax.tree_util.keystr(path, simple=True, separator="/"): told(x)
      for path, x in jax.tree_util.tree_leaves_with_path(tree)
    }
    for tree in (old, new)
  )
  for key in dict.fromkeys([*was, *now]):
    if was.get(key) != now.get(key):
      raise ConfigError(
        f"{name}.on_epoch returns the buffer {key!r} as"
        f" {now.get(key, 'nothing')}; `draw` made it {was.get(key, 'nothing')}."
        " It must return all buffers, of the same shapes and dtypes."
      )
