import hashlib

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from sslx.data import shapes


def digest(arrays):
  return hashlib.sha256(b"".join(a.tobytes() for a in arrays)).hexdigest()


def test_the_same_arguments_give_the_same_set():
  first = digest(shapes.generate("train", 300, seed=3))
  assert first == digest(shapes.generate("train", 300, seed=3))
  assert first != digest(shapes.generate("train", 300, seed=4))
  assert first != digest(shapes.generate("test", 300, seed=3))


@pytest.mark.parametrize(("n", "size"), [(10, 32), (257, 32), (9, 48)])
def test_shapes_and_dtypes(n, size):
  images, labels = shapes.generate("train", n, size=size)
  assert images.shape == (n, size, size, 3)
  assert images.dtype == np.uint8
  assert labels.shape == (n,)
  assert labels.dtype == np.int32
  counts = np.bincount(labels, minlength=shapes.NUM_CLASSES)
  assert counts.size == len(shapes.FIGURES)
  assert counts.max() - counts.min() <= 1


def test_default_numbers_and_disjoint_splits():
  train, train_labels = shapes.generate("train")
  test, _ = shapes.generate("test")
  assert (len(train), len(test)) == (4096, 1024)
  assert len({image.tobytes() for image in [*train, *test]}) == 4096 + 1024
  # In random order: neighbours agree as often as chance has it.
  agree = (train_labels[1:] == train_labels[:-1]).mean()
  assert abs(agree - 1 / shapes.NUM_CLASSES) < 0.03


@pytest.mark.parametrize(
  ("split", "n"), [("validation", None), ("validation", 10)]
)
def test_unknown_split(split, n):
  with pytest.raises(ValueError, match="'validation'; it must be 'train'"):
    shapes.generate(split, n)


def areas():
  """Of each figure in its own units, by geometry."""
  plus = 4 * 0.95 * 0.4 - 0.4**2
  bars = 2 * 0.36 * 1.6
  # Equilateral, of inradius r: 3 sqrt(3) r^2.
  triangle = 3 * np.sqrt(3) * ((0.35 + 0.14) ** 2 - (0.35 - 0.14) ** 2)
  return {
    "disc": np.pi * 0.8**2,
    "ring": np.pi * (0.92**2 - 0.58**2),
    "plus": plus,
    "cross": plus,
    "level": bars,
    "upright": bars,
    "triangle": triangle,
    "dots": 4 * np.pi * 0.22**2,
  }


@pytest.mark.parametrize("name", shapes.FIGURES)
def test_figures_have_the_area_of_their_geometry(name):
  side = np.linspace(-1, 1, 1001)
  x, y = np.meshgrid(side, side)
  inside = shapes.FIGURES[name](x[None], y[None])[0] < 0
  assert not inside[np.hypot(x, y) > 1].any()
  assert inside.mean() * 4 == pytest.approx(areas()[name], rel=0.01)


def test_pixels_say_little_of_the_class():
  train, train_labels = shapes.generate("train")
  test, test_labels = shapes.generate("test")
  flat = lambda images: images.reshape(len(images), -1) / 255
  knn = KNeighborsClassifier(20, metric="cosine", algorithm="brute")
  knn.fit(flat(train), train_labels)
  assert knn.score(flat(test), test_labels) < 0.35
