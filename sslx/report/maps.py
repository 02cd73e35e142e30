"""The feature space of a run: a map in two dimensions, nearest neighbours."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np

from sslx.config import ConfigError
from sslx.report import page
from sslx.report.curves import Chart
from sslx.report.samples import Sample

_LEAST = 10  # images; a map of fewer says nothing
_IN_LEGEND = 20  # classes; more do not fit

Method = Literal["tsne", "umap"]


def chart(sample: Sample, method: Method) -> Chart:
  """Maps the features of images to two dimensions, in the colours of classes.

  Args:
    sample: the images; their features are compared by the cosine.
    method: t-SNE (van der Maaten and Hinton, 2008) by scikit-learn, or UMAP
      (McInnes et al., 2018) by umap-learn.

  Raises:
    ConfigError: the method's package is not installed, the images are too few,
      or they all have the same features.
  """
  n = len(sample.features)
  if n < _LEAST:
    raise ConfigError(f"a map needs {_LEAST} images or more; here are {n}.")
  features = _unit(sample.features)
  if not np.ptp(features, axis=0).max() > 1e-6:
    raise ConfigError("all images have the same features, or not finite ones.")
  places = _embedded(features, method)
  title = {"tsne": "t-SNE", "umap": "UMAP"}[method]
  note = f"{n:,} {sample.split} images. Near points have similar features."
  common = {"type": "scatter", "mode": "markers"}
  if sample.names is None:
    marker = {"size": 5, "opacity": 0.75, "color": page.colour(0)}
    trace = common | _points(places) | {"marker": marker, "hoverinfo": "none"}
    return Chart(f"{title} map", f"{note} There are no labels.", [trace])
  labels = sample.images.labels
  names = {x: page.label(sample.name(x)) for x in np.unique(labels)}
  hover = {"hovertemplate": "%{text}<extra></extra>"}
  if len(names) > _IN_LEGEND:
    marker = {"size": 5, "opacity": 0.75, "color": labels.tolist(),
              "colorscale": "Portland"}  # fmt: skip
    text = [names[x] for x in labels]
    traces = [
      common | hover | _points(places) | {"marker": marker, "text": text}
    ]
    return Chart(f"{title} map", note, traces)
  traces = []
  for i, label in enumerate(names):
    mine = labels == label
    symbol = ("circle", "diamond", "cross")[i // 8]
    traces.append(
      common
      | hover
      | _points(places[mine])
      | {
        "name": names[label],
        "text": [names[label]] * int(mine.sum()),
        "marker": {
          "size": 6, "opacity": 0.8, "color": page.colour(i), "symbol": symbol,
        },
      }
    )  # fmt: skip
  return Chart(f"{title} map by class", note, traces)


def _points(places: np.ndarray) -> dict[str, Any]:
  x, y = np.round(places.astype(float), 3).T.tolist()
  return {"x": x, "y": y}


def _unit(features: np.ndarray) -> np.ndarray:
  norm = np.linalg.norm(features, axis=1, keepdims=True)
  return features / np.maximum(norm, 1e-12)


def _embedded(features: np.ndarray, method: Method) -> np.ndarray:
  """Returns places in the plane, f32[n, 2]; the same at every call."""
  if method == "umap":
    umap = page.package("umap", "umap")
    neighbours = min(15, len(features) - 1)
    return umap.UMAP(
      n_neighbors=neighbours, metric="cosine", random_state=0, n_jobs=1
    ).fit_transform(features)
  manifold = page.package("sklearn.manifold")
  # Van der Maaten and Hinton use a perplexity of 5 to 50.
  perplexity = min(30.0, (len(features) - 1) / 3)
  return manifold.TSNE(
    perplexity=perplexity, init="pca", random_state=0
  ).fit_transform(features)


class Neighbours(NamedTuple):
  """An image and the training images that are nearest to it.

  Attributes:
    picture: the image as a `data:` address.
    name: its class, or None.
    nearest: (picture, name of the class, cosine) of each, the nearest first.
  """

  picture: str
  name: str | None
  nearest: list[tuple[str, str | None, float]]


def neighbours(
  sample: Sample, bank: Sample, images: int, k: int
) -> list[Neighbours]:
  """Finds the nearest images of a bank by the cosine of the features.

  Args:
    sample: its first images are shown.
    bank: the images to find.
    images: how many to show.
    k: how many neighbours of each.
  """
  images = min(images, len(sample.features))
  cosines = _unit(sample.features[:images]) @ _unit(bank.features).T
  if sample.split == bank.split:  # An image is not its own neighbour.
    cosines[sample.indices[:images, None] == bank.indices] = -np.inf
  found = []
  for i, row in enumerate(cosines):
    order = np.argsort(-row, kind="stable")[:k]
    nearest = [
      (picture(bank, j), bank.class_of(j), float(row[j]))
      for j in order
      if np.isfinite(row[j])
    ]
    found.append(Neighbours(picture(sample, i), sample.class_of(i), nearest))
  return found


def picture(sample: Sample, i: int, side: int = 128) -> str:
  """Returns a thumbnail as a `data:` address."""
  return page.data_uri(sample.shown(i), most=side)
