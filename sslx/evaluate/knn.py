"""Weighted k-nearest-neighbour accuracy of frozen features, on a sharded bank.

The bank is neither gathered nor copied: ImageNet's is 1.28M x 2048 float32,
10.5 GB. For a chunk of queries, each device finds the best candidates in its
own shard. Only those candidates move between devices.
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from sslx import losses
from sslx.axis import DATA, Axis
from sslx.config import require


@dataclasses.dataclass(frozen=True)
class KNN:
  """Settings of the evaluator (config section `runtime.evaluate.knn`).

  Attributes:
    k: numbers of neighbours; one accuracy is reported for each.
    temperature: T of the vote weights exp(cosine / T): 0.07 in Wu et al. 2018
      (Instance Discrimination) and in DINO, 0.1 in MoCo's CIFAR protocol.
    bank: number of training images in the bank, see `sets.evenly`; None is all.
      An evaluation of ImageNet encodes 1.28M images for a bank of 10.5 GB.
  """

  k: tuple[int, ...] = (10, 20, 100, 200)
  temperature: float = 0.07
  bank: int | None = None

  def __post_init__(self):
    at_least_1 = bool(self.k) and min(self.k) >= 1
    require(self, "k", at_least_1, "integers of at least 1")
    require(self, "temperature", self.temperature > 0, "positive")
    some = self.bank is None or self.bank >= 1
    require(self, "bank", some, "at least 1, or None for all")


def accuracy(
  bank: jax.Array,
  bank_labels: jax.Array,
  queries: jax.Array,
  query_labels: jax.Array,
  *,
  k: tuple[int, ...],
  temperature: float,
  num_classes: int,
  mesh: Mesh,
  chunk: int = 256,
) -> dict[int, float]:
  """Computes the top-1 accuracy of a weighted vote of the k nearest bank rows.

  Neighbours are ranked by cosine similarity in float32, because bfloat16
  similarities change the ranking. Each neighbour votes for its class with
  weight exp(cosine / T). Ties do not depend on the number of devices: of equal
  similarities the earlier bank row wins, and of equal votes the lowest class.

  Args:
    bank: f32[n, B, d], B sharded over the mesh axis "data"; any row norms.
    bank_labels: i32[n, B] in [0, num_classes), or -1 for a padding row.
    queries: f32[m, B', d], sharded like the bank.
    query_labels: i32[m, B'], -1 for a padding row.
    k: numbers of neighbours.
    temperature: T above.
    num_classes: number of classes.
    mesh: the mesh that the arrays are on.
    chunk: queries compared at once, over all devices. It bounds memory: a
      device holds chunk x (bank rows / devices) float32 similarities.

  Returns:
    {k: fraction of the queries that are classified correctly}.

  Raises:
    ValueError: a k exceeds the number of bank rows, or there is no query.
      Padding rows are not counted.

  References:
    Wu et al., Unsupervised Feature Learning via Non-Parametric Instance
    Discrimination, CVPR 2018, sec. 3.4.
  """
  rows = int(jnp.sum(bank_labels >= 0))
  asked = int(jnp.sum(query_labels >= 0))
  if max(k) > rows:
    raise ValueError(
      f"k is {max(k)}, but the bank has only {rows} rows; use a smaller k."
    )
  if not asked:
    raise ValueError(
      f"no query to classify: all {query_labels.size} rows are padding."
    )
  ks = tuple(sorted(set(k)))
  hits = _hits(
    bank,
    bank_labels,
    queries,
    query_labels,
    ks=ks,
    temperature=temperature,
    num_classes=num_classes,
    mesh=mesh,
    chunk=chunk,
  )
  return {
    n: int(hit) / asked for n, hit in zip(ks, jax.device_get(hits), strict=True)
  }


@functools.partial(
  jax.jit,
  static_argnames=("ks", "temperature", "num_classes", "mesh", "chunk"),
)
def _hits(bank, bank_labels, queries, query_labels, *, mesh, **settings):
  """Counts the correct queries for each k: i32[len(ks)], replicated."""
  rows, labels = P(None, DATA, None), P(None, DATA)
  return jax.shard_map(
    functools.partial(_shard_hits, **settings),
    mesh=mesh,
    in_specs=(rows, labels, rows, labels),
    out_specs=P(),
  )(bank, bank_labels, queries, query_labels)


def _shard_hits(
  bank,
  bank_labels,
  queries,
  query_labels,
  *,
  ks,
  temperature,
  num_classes,
  chunk,
):
  """Does one device's part of `_hits`; returns the sum over devices."""
  axis = Axis(DATA)
  n, b, _ = bank.shape
  # The place of every row in the whole bank, to break ties in an order that
  # does not depend on the number of devices.
  place = (
    jnp.arange(n)[:, None] * (b * axis.size) + axis.positions(b)
  ).reshape(-1)
  bank, bank_labels = _rows(bank), bank_labels.reshape(-1)
  # Normalised rows would be a second bank; their norms are small.
  scale = losses.inverse_norms(bank)[:, 0]
  queries, query_labels = _rows(queries), query_labels.reshape(-1)

  def to_owner(x):
    """Sends candidates of each query to the device that holds the query.

    [queries of all, c] from my shard -> [my queries, c from all shards].
    """
    return lax.all_to_all(x, axis.name, split_axis=0, concat_axis=1, tiled=True)

  def chunk_hits(mine):
    mine, mine_labels = mine
    similarity = scale * jnp.dot(
      axis.all_gather(losses.l2_normalize(mine)),
      bank.T,
      precision=lax.Precision.HIGHEST,
    )
    similarity = jnp.where(bank_labels >= 0, similarity, -jnp.inf)
    best, row = lax.top_k(similarity, min(ks[-1], n * b))
    candidates = (-best, place[row], bank_labels[row])
    distance, _, label = lax.sort(
      [to_owner(x) for x in candidates], dimension=1, num_keys=2
    )
    # Relative to the nearest neighbour: exp(1 / T) overflows for a small T.
    weight = jnp.exp((distance[:, :1] - distance) / temperature)
    votes, start, hits = 0.0, 0, []
    for end in ks:
      # XLA fuses the comparison and the sum: the order of the sum is fixed, and
      # no [queries, k, classes] array is stored.
      chosen = label[:, start:end, None] == jnp.arange(num_classes)
      votes += jnp.sum(chosen * weight[:, start:end, None], axis=1)
      hits.append(jnp.sum(jnp.argmax(votes, axis=-1) == mine_labels))
      start = end
    return jnp.stack(hits)

  size = min(max(1, chunk // axis.size), len(queries))
  pad = -len(queries) % size
  queries = jnp.pad(queries, ((0, pad), (0, 0)))
  query_labels = jnp.pad(query_labels, (0, pad), constant_values=-1)
  hits = lax.map(
    chunk_hits,
    (
      queries.reshape(-1, size, queries.shape[-1]),
      query_labels.reshape(-1, size),
    ),
  )
  return axis.psum(jnp.sum(hits, axis=0))


def _rows(features):
  """Maps [n, b, d] to [n * b, d]."""
  return features.reshape(-1, features.shape[-1])
