"""kNN against scikit-learn, on several meshes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from sklearn.neighbors import KNeighborsClassifier

from sslx.evaluate import knn
from sslx.parallel import Parallel, Partitioner

CLASSES, DIM, BATCH = 7, 12, 24
KS = (1, 5, 20, 83)


def mesh_of(devices):
  return Partitioner.create(Parallel(), jax.devices()[:devices]).mesh


def clusters(rng, rows):
  """Overlapping classes, so that neighbours disagree; rows of any norm."""
  labels = rng.integers(0, CLASSES, rows)
  centres = np.random.default_rng(0).normal(size=(CLASSES, DIM))
  x = centres[labels] + 1.2 * rng.normal(size=(rows, DIM))
  return x * rng.uniform(0.1, 10, (rows, 1)), labels


def place(x, labels, mesh, batch=BATCH, padding=1e3):
  """Rows to [n, batch, d] and [n, batch], padded with loud rows."""
  pad = -len(x) % batch
  x = np.concatenate([x, np.full((pad, x.shape[1]), padding)])
  labels = np.concatenate([labels, np.full(pad, -1)])
  arrays = (
    x.reshape(-1, batch, x.shape[1]).astype(np.float32),
    labels.reshape(-1, batch).astype(np.int32),
  )
  return jax.device_put(arrays, NamedSharding(mesh, P(None, "data")))


def sklearn_accuracy(bank, labels, queries, query_labels, k, temperature):
  """Of unit vectors |a - b|^2 = 2 - 2 cos(a, b)."""
  unit = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)
  classifier = KNeighborsClassifier(
    k,
    weights=lambda distance: np.exp((1 - distance**2 / 2) / temperature),
    algorithm="brute",
  ).fit(unit(bank), labels)
  return classifier.score(unit(queries), query_labels)


@pytest.mark.parametrize("temperature", [0.07, 0.5])
@pytest.mark.parametrize("devices", [1, 2, 8])
def test_equals_scikit_learn(devices, temperature):
  rng = np.random.default_rng(1)
  # Neither divides by the batch, nor the local queries by the chunk; the bank
  # shard of 8 devices (12 rows) is smaller than the largest k.
  bank, queries = clusters(rng, 83), clusters(rng, 61)
  mesh = mesh_of(devices)
  found = knn.accuracy(
    *place(*bank, mesh),
    *place(*queries, mesh),
    k=KS,
    temperature=temperature,
    num_classes=CLASSES,
    mesh=mesh,
    chunk=16,
  )
  expected = {k: sklearn_accuracy(*bank, *queries, k, temperature) for k in KS}
  assert len(set(expected.values())) > 1
  assert found == pytest.approx(expected, abs=1e-9)


def test_chunk_and_order_of_k_change_nothing():
  rng = np.random.default_rng(2)
  bank, queries = clusters(rng, 83), clusters(rng, 61)
  mesh = mesh_of(2)
  run = lambda k, chunk: knn.accuracy(
    *place(*bank, mesh),
    *place(*queries, mesh),
    k=k,
    temperature=0.07,
    num_classes=CLASSES,
    mesh=mesh,
    chunk=chunk,
  )
  assert run((5, 1), 1) == run((1, 5, 5), 10_000)


@pytest.mark.parametrize("devices", [1, 2, 8])
def test_ties_do_not_depend_on_devices(devices):
  """A collapsed encoder: all cosines equal, the first bank rows decide."""
  mesh = mesh_of(devices)
  labels = np.array([3, 3, 1, 1, 1, 0, 0, 0, 0] + [2] * 31)
  bank = np.ones((40, 4))
  queries, query_labels = np.ones((10, 4)), np.arange(10) % 4
  found = knn.accuracy(
    *place(bank, labels, mesh, 8),
    *place(queries, query_labels, mesh, 8),
    k=(2, 4, 5, 9, 40),
    temperature=0.07,
    num_classes=4,
    mesh=mesh,
    chunk=6,  # does not divide: filler queries, which must not count
  )
  # Winners 3, 1 (ties with 3), 1, 0, 2; of 0..9 mod 4, classes 0 and 1 are
  # three times there, 2 and 3 twice.
  assert found == {2: 0.2, 4: 0.3, 5: 0.3, 9: 0.3, 40: 0.2}


def test_small_temperature_does_not_overflow():
  mesh = mesh_of(2)
  rng = np.random.default_rng(3)
  bank, queries = clusters(rng, 83), clusters(rng, 61)
  found = knn.accuracy(
    *place(*bank, mesh),
    *place(*queries, mesh),
    k=(1, 83),
    temperature=1e-4,
    num_classes=CLASSES,
    mesh=mesh,
  )
  # exp(1 / T) is infinite, and the limit of T -> 0 is the nearest neighbour.
  assert found[83] == found[1] == sklearn_accuracy(*bank, *queries, 1, 1.0)


def test_similarity_is_float32():
  """Two bank rows whose cosines bfloat16 cannot tell apart."""
  mesh = mesh_of(1)
  angles = np.array([0.30, 0.301])
  bank = np.stack([np.cos(angles), np.sin(angles)], axis=1)
  queries = np.array([[1.0, 0.0], [np.cos(0.6), np.sin(0.6)]])
  found = knn.accuracy(
    *place(bank, [0, 1], mesh, 2),
    *place(queries, [0, 1], mesh, 2),
    k=(1,),
    temperature=0.07,
    num_classes=2,
    mesh=mesh,
  )
  assert found == {1: 1.0}


def test_bank_is_never_gathered():
  """No device holds the whole bank, nor its own part of it twice."""
  mesh = mesh_of(8)
  rows, dim = 8 * 512, 256
  shape = lambda *s, dtype: jax.ShapeDtypeStruct(
    s, dtype, sharding=NamedSharding(mesh, P(None, "data"))
  )
  program = knn._hits.lower(
    shape(2, rows // 2, dim, dtype=jnp.float32),
    shape(2, rows // 2, dtype=jnp.int32),
    shape(1, 16, dim, dtype=jnp.float32),
    shape(1, 16, dtype=jnp.int32),
    ks=(5,),
    temperature=0.07,
    num_classes=3,
    mesh=mesh,
    chunk=16,
  ).compile()
  text = program.as_text()
  assert f"[{rows // 8},{dim}]" in text
  assert f"[{rows},{dim}]" not in text and f"[2,{rows // 2}" not in text
  # 16 x 512 similarities take a sixteenth of the memory of 512 x 256 features.
  shard = rows // 8 * dim * 4
  assert program.memory_analysis().temp_size_in_bytes < shard / 2


@pytest.mark.parametrize("query_label, k", [(0, 20), (-1, 1)])
def test_rejects_impossible_requests(query_label, k):
  mesh = mesh_of(2)
  bank = place(np.ones((19, 2)), np.zeros(19, int), mesh)
  queries = place(np.ones((4, 2)), np.full(4, query_label), mesh)
  with pytest.raises(ValueError, match="20.* 19" if k == 20 else "all 24"):
    knn.accuracy(
      *bank,
      *queries,
      k=(k,),
      temperature=0.07,
      num_classes=2,
      mesh=mesh,
    )


@pytest.mark.parametrize(
  "key, value", [("k", ()), ("k", (10, 0)), ("temperature", 0.0), ("bank", 0)]
)
def test_settings_refuse(key, value):
  with pytest.raises(ValueError, match=key):
    knn.KNN(**{key: value})
