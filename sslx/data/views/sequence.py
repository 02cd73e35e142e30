"""The views of an image together: their order, their links, their cuts."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import numpy as np

from sslx.data import augment
from sslx.data.crops import Cut
from sslx.data.views.base import View

Array = jax.Array


class Slot(NamedTuple):
  """One of the arrays that a method receives.

  Attributes:
    view: index into the views of `each`.
    shuffled: whether its rows are in the order of `order.Order.shuffle` instead
      of the order of the batch.
  """

  view: int
  shuffled: bool = False


def unshuffled(views: int) -> tuple[Slot, ...]:
  """Every view once, in the order of the batch."""
  return tuple(map(Slot, range(views)))


def each(views: tuple[View, ...]) -> tuple[View, ...]:
  """One entry per view that an image gets: every kind, `count` times."""
  return tuple(view for view in views for _ in range(view.count))


def drawn(views: tuple[View, ...]) -> tuple[int, ...]:
  """For each view of `each`, the one of `each` that draws its random numbers.

  That is the view itself, or the one that it is linked to.
  """
  first = np.cumsum([0, *(view.count for view in views)]).tolist()
  return tuple(
    first[i if view.link is None else view.link] + n
    for i, view in enumerate(views)
    for n in range(view.count)
  )


def check(views: tuple[View, ...], channels: int) -> None:
  """Checks what a view cannot check alone.

  Args:
    views: `config.data.views`.
    channels: of the network's input.

  Raises:
    ValueError: a kind from outside does not keep to the interface; a link is
      wrong; or a normalisation does not fit.
  """
  for i, view in enumerate(views):
    here = f"views.{i}"
    _check_class(type(view), here)
    if view.link is not None:
      _check_link(views, i, here)
    if view.mean is None:
      continue
    if i == 0:
      raise ValueError(
        f"{here}.mean is {view.mean}; it must be None: evaluation gives the"
        " network images that config.data.mean and std normalise. Set these, or"
        " link another view to this one, with a mean of its own."
      )
    for name in ("mean", "std"):
      value = getattr(view, name)
      if len(value) != channels:
        raise ValueError(
          f"{here}.{name} is {value}; it must be one number for each of"
          f" channels={channels}."
        )


def _check_class(cls: type, here: str) -> None:
  told = f"{here} is a {cls.__module__}.{cls.__name__}, which"
  if not issubclass(cls, View):
    raise ValueError(f"{told} is not a subclass of data.views.View.")
  if "__dataclass_params__" not in vars(cls):
    raise ValueError(
      f"{told} is not a dataclass: its fields would be ignored. Decorate it"
      " with @dataclasses.dataclass(frozen=True)."
    )
  if cls.boxes is View.boxes:
    raise ValueError(f"{told} does not define `boxes`.")


def _check_link(views: tuple[View, ...], i: int, here: str) -> None:
  view = views[i]
  if not 0 <= view.link < i:
    before = f"the index of a view before it, 0 to {i - 1}" if i else "None"
    raise ValueError(f"{here}.link is {view.link}; it must be {before}.")
  source = views[view.link]
  if source.link is not None:
    raise ValueError(
      f"{here}.link is {view.link}, a view that is linked itself; it must be"
      f" {source.link}."
    )
  if type(source) is not type(view):
    raise ValueError(
      f"{here}.link is {view.link}, a view of kind {source.kind!r}; it must be"
      f" one of kind {view.kind!r}."
    )
  for name in (field.name for field in dataclasses.fields(view)):
    mine, theirs = getattr(view, name), getattr(source, name)
    if name not in view.free and mine != theirs:
      raise ValueError(
        f"{here}.{name} is {mine}; it must be {theirs}, as that of"
        f" views.{view.link}, to which this view is linked."
      )


def uniforms_per_image(views: tuple[View, ...]) -> int:
  """Number of uniform random numbers per image that `random_cuts` takes."""
  return sum(v.num_uniforms * v.count for v in views if v.link is None)


def random_cuts(
  views: tuple[View, ...],
  uniforms: np.ndarray,
  height: np.ndarray,
  width: np.ndarray,
) -> list[list[list[Cut]]]:
  """Samples the boxes and flips of all views of each image.

  Args:
    views: kinds of views.
    uniforms: float64[b, uniforms_per_image(views)] in [0, 1).
    height: int[b], heights of the images.
    width: int[b], widths of the images.

  Returns:
    For each image and each of its views, the cuts: one for each picture.
  """
  columns = []  # for each view, its cuts in every image
  numbers = {}  # for each view that is not linked, its columns of `uniforms`
  for n, (view, source) in enumerate(
    zip(each(views), drawn(views), strict=True)
  ):
    if source == n:
      numbers[n] = uniforms[:, : view.num_uniforms]
      uniforms = uniforms[:, view.num_uniforms :]
    columns.append(view.cuts(numbers[source], height, width))
  return [list(cuts) for cuts in zip(*columns, strict=True)]


def cut_views(
  views: tuple[View, ...], images: Array, keys: Array
) -> tuple[Array, ...]:
  """Cuts all views of each image, f32[b, *view.shape]; no colour changes.

  The views come in the order of `views`, `count` of each kind. View n folds n
  into the keys; a linked view, the number of the view that it is linked to.
  """
  return tuple(
    view.cut(images, augment.fold(keys, n))
    for view, n in zip(each(views), drawn(views), strict=True)
  )


def colour_views(
  views: tuple[View, ...], cut: tuple[Array, ...], keys: Array
) -> tuple[Array, ...]:
  """Augments the colours of views that were cut here or on the host.

  Args:
    views: kinds of views.
    cut: u8 or float [b, *view.shape], in the order of `views`, `count` of each
      kind.
    keys: those given to `cut_views`, if it cut the views.

  Returns:
    f32[b, *view.shape] each, in [0, 1].
  """
  return tuple(
    view.colour(x, augment.fold(keys, n))
    for view, x, n in zip(each(views), cut, drawn(views), strict=True)
  )


def make_views(
  views: tuple[View, ...], images: Array, keys: Array
) -> tuple[Array, ...]:
  """Cuts and colours all views of small images: f32[b, *view.shape] each."""
  return colour_views(views, cut_views(views, images, keys), keys)
