"""Losses of the methods: pure functions over a data axis, without parameters.

All logits and reductions are float32. A loss is the mean over the given
examples, so `axis.pmean` of it is the loss of the global batch in either view.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from sslx.axis import Axis


def l2_normalize(x: jax.Array, eps: float = 1e-12) -> jax.Array:
  """Scales rows to unit length, float32; rows shorter than `eps` by 1 / eps."""
  x = x.astype(jnp.float32)
  return x * inverse_norms(x, eps)


def inverse_norms(x: jax.Array, eps: float = 1e-12) -> jax.Array:
  """Maps rows [..., d] to 1 / norm, f32[..., 1], and at most 1 / eps."""
  x = x.astype(jnp.float32)
  # max() inside the root makes the gradient at a zero row zero, not NaN.
  square = jnp.sum(x * x, axis=-1, keepdims=True)
  return jax.lax.rsqrt(jnp.maximum(square, eps * eps))


def cosine(predictions: jax.Array, targets: jax.Array) -> jax.Array:
  """Mean cosine similarity of predictions [b, d] to fixed targets [b, d].

  No gradient flows into the targets. Both are normalised here.

  Returns:
    f32 scalar, the mean over the rows given. BYOL's loss, eq. 2, is twice its
    distance from 1; SimSiam's, eq. 1, is its negative.
  """
  targets = l2_normalize(jax.lax.stop_gradient(targets))
  return jnp.mean(jnp.sum(l2_normalize(predictions) * targets, axis=-1))


def smooth_l1(predictions: jax.Array, targets: jax.Array) -> jax.Array:
  """Huber's function of the differences, f32: |x| - 1/2, and x^2 / 2 below 1.

  torch calls it the smooth L1 loss; beta, where the square ends, is 1.
  """
  size = jnp.abs(predictions.astype(jnp.float32) - targets)
  return jnp.where(size < 1, 0.5 * size * size, size - 0.5)


def nt_xent(
  z: jax.Array, temperature: float, axis: Axis
) -> tuple[jax.Array, jax.Array]:
  """NT-Xent: each view must find the other view of its image in the batch.

  The negatives are the 2B - 2 views of other images in the global batch. The
  gradient is that of the global mean. (Implementations that gather without
  differentiating the gather divide it by the number of devices.)

  The official TensorFlow code adds the means over the two views: its loss and
  gradients are twice those of eq. 1, which is computed here. LARS divides the
  update by its norm, so where its trust ratio applies the factor matters only
  beside the weight decay, which weighs twice as much here. Parameters that the
  trust ratio excludes, biases and BatchNorm's, take half the step of the
  official code at the same learning rate.

  Args:
    z: [b, 2, d] embeddings, two views of each image; normalised here.
    temperature: divides the cosine similarities.
    axis: the batch axis.

  Returns:
    f32 scalar loss, the mean over the 2b views given; f32 scalar accuracy, the
    fraction of views whose positive has the highest similarity.

  References:
    Chen et al., A Simple Framework for Contrastive Learning of Visual
    Representations, 2020, eq. 1.
  """
  b = z.shape[0]
  anchors = l2_normalize(z)
  candidates = axis.all_gather(anchors).reshape(-1, z.shape[-1])  # [2B, d]
  positives = jnp.sum(anchors[:, 0] * anchors[:, 1], axis=-1) / temperature
  positives = jnp.repeat(positives, 2)  # [2b]
  logits = (
    jnp.matmul(
      anchors.reshape(2 * b, -1),
      candidates.T,
      precision=jax.lax.Precision.HIGHEST,
    )
    / temperature
  )  # [2b, 2B]
  # The views of image i are rows 2i and 2i + 1 in global batch order.
  rows = (2 * axis.positions(b)[:, None] + jnp.arange(2)).reshape(-1)
  itself = rows[:, None] == jnp.arange(candidates.shape[0])
  logits = jnp.where(itself, -jnp.inf, logits)
  loss = jnp.mean(jax.nn.logsumexp(logits, axis=-1) - positives)
  correct = jnp.argmax(logits, axis=-1) == rows ^ 1  # The other view.
  return loss, jnp.mean(correct.astype(jnp.float32))


def info_nce(
  queries: jax.Array,
  positives: jax.Array,
  negatives: jax.Array,
  temperature: float,
) -> tuple[jax.Array, jax.Array]:
  """InfoNCE of each query against its positive and a set of negatives.

  Args:
    queries: f32[b, d] of unit length.
    positives: f32[b], the similarity of each query to its key.
    negatives: f32[K, d] of unit length.
    temperature: divides the similarities.

  Returns:
    f32 scalar loss, the mean over queries; f32 scalar accuracy, the fraction of
    queries whose positive has the highest similarity.

  References:
    He et al., Momentum Contrast, 2020, eq. 1.
  """
  similar = jnp.matmul(
    queries, negatives.T, precision=jax.lax.Precision.HIGHEST
  )  # [b, K]
  logits = jnp.concatenate([positives[:, None], similar], axis=1) / temperature
  loss = jnp.mean(jax.nn.logsumexp(logits, axis=-1) - logits[:, 0])
  correct = positives >= jnp.max(similar, axis=1)
  return loss, jnp.mean(correct.astype(jnp.float32))


def batch_nce(
  queries: jax.Array, keys: jax.Array, temperature: float, axis: Axis
) -> tuple[jax.Array, jax.Array]:
  """InfoNCE of each query against the keys of the global batch.

  Args:
    queries: f32[b, d] of unit length.
    keys: f32[b, d] of unit length, of the same images; no gradient flows into
      them.
    temperature: divides the similarities.
    axis: the batch axis.

  Returns:
    f32 scalar loss, the mean over queries; f32 scalar accuracy, the fraction of
    queries whose positive has the highest similarity.

  References:
    Chen et al., MoCo v3, 2021, algorithm 1.
  """
  everyones = axis.all_gather(jax.lax.stop_gradient(keys))  # [B, d]
  logits = (
    jnp.matmul(queries, everyones.T, precision=jax.lax.Precision.HIGHEST)
    / temperature
  )  # [b, B]
  own = axis.positions(len(queries))
  positives = jnp.take_along_axis(logits, own[:, None], axis=1)[:, 0]
  loss = jnp.mean(jax.nn.logsumexp(logits, axis=-1) - positives)
  correct = jnp.argmax(logits, axis=-1) == own
  return loss, jnp.mean(correct.astype(jnp.float32))


def sigreg(z: jax.Array, directions: jax.Array, axis: Axis) -> jax.Array:
  """SIGReg: how far embeddings are from a standard normal distribution.

  Along each direction it is the statistic of Epps and Pulley: B times the
  squared distance of two characteristic functions, that of the B embeddings,
  mean exp(i t x), and that of N(0, 1), exp(-t^2 / 2), integrated over t with
  weight exp(-t^2 / 2), by trapezoids between 33 knots in [-3, 3]. Both halves
  are equal, so that 17 knots are computed. Of normal embeddings it is 1.05 on
  average, whatever B is.

  The mean over the global batch comes before the square. The knots are
  computed one by one, and again for the gradient, so that B v M projections are
  in memory four times, and not for every knot.

  Args:
    z: f32[b, v, d], embeddings of v views; each view is a sample of its own.
    directions: f32[M, d] of unit length, the same on all devices.
    axis: the batch axis.

  Returns:
    f32 scalar, the mean over views and directions.

  References:
    Balestriero and LeCun, LeJEPA, 2025, algorithm 1; Epps and Pulley, 1983.
  """
  x = jnp.matmul(z, directions.T, precision=jax.lax.Precision.HIGHEST)
  # In the global view each device sums its own rows, and all meet only once,
  # after the loop.
  x = x.reshape(axis.shards, -1, *x.shape[1:])

  @jax.checkpoint
  def means(t: jax.Array) -> tuple[jax.Array, jax.Array]:
    return jnp.mean(jnp.cos(t * x), axis=1), jnp.mean(jnp.sin(t * x), axis=1)

  t = jnp.linspace(0.0, 3.0, 17)
  parts = jax.lax.map(means, t)  # [17, shards, v, M], twice
  real, imaginary = axis.pmean([jnp.mean(part, axis=1) for part in parts])
  normal = jnp.exp(-jnp.square(t) / 2)[:, None, None]
  distances = jnp.square(real - normal) + jnp.square(imaginary)
  integrals = 2 * jnp.trapezoid(normal * distances, t, axis=0)
  return len(z) * axis.size * jnp.mean(integrals)


def cross_views(targets: jax.Array, log_p: jax.Array) -> jax.Array:
  """Mean cross-entropy of predictions to targets of other views of the image.

  Args:
    targets: f32[b, t, K], probabilities for the first t views.
    log_p: f32[b, v, K], logarithms of the predictions from all v views.

  Returns:
    f32 scalar, the mean over the rows given and over the t (v - 1) pairs of a
    target and a prediction from another view.

  References:
    Caron et al., DINO, 2021, eq. 3.
  """
  # The entropies of each target with all predictions, less that with its own.
  t, v = targets.shape[1], log_p.shape[1]
  others = jnp.sum(log_p, axis=1, keepdims=True) - log_p[:, :t]
  return -jnp.mean(jnp.sum(targets * others, axis=-1)) / (v - 1)


def masked_patches(
  targets: jax.Array, log_p: jax.Array, weights: jax.Array
) -> jax.Array:
  """Mean cross-entropy of predictions of masked patches to their targets.

  Args:
    targets: f32[..., m, K], probabilities.
    log_p: f32[..., m, K], logarithms of the predictions.
    weights: f32[..., m], those of `masks.indices`: their sum is 1 for a view
      with a mask, and 0 for one without.

  Returns:
    f32 scalar, the mean over the views given of the mean over their masked
    patches. A view without a mask adds 0.

  References:
    Zhou et al., iBOT, 2022, eq. 2.
  """
  entropies = -jnp.sum(targets * log_p, axis=-1)
  return jnp.mean(jnp.sum(entropies * weights, axis=-1))


def sinkhorn(
  scores: jax.Array, past: jax.Array | None, iterations: int, axis: Axis
) -> jax.Array:
  """Assigns samples softly to prototypes, with equal shares per prototype.

  The official code divides the matrix alternately by its sums over samples and
  over prototypes. Here the logarithms of these sums are subtracted, because the
  exponential of a large score overflows. Sums over samples are over the global
  batch, so that the codes do not depend on the number of devices. The last
  division is by the sum of each sample's codes, so it is a softmax. The numbers
  of samples and of prototypes are constant factors, and cancel.

  Args:
    scores: f32[b, K] similarities of samples to prototypes, divided by epsilon.
    past: f32[q, K], the same for this device's share of past samples, which are
      assigned together with the batch; a row of -inf is not a sample.
    iterations: number of times that both divisions are done.
    axis: the batch axis.

  Returns:
    f32[b, K] codes, each with sum 1.

  References:
    Caron et al., SwAV, 2020, section 3.1 and eq. 3 to 5; Cuturi, 2013.
  """
  # Separate, not concatenated: each block keeps its sharding over the devices.
  blocks = [scores] if past is None else [scores, past]
  # The logarithm of the divisor of each row, [rows, 1].
  divisors = [jnp.zeros((len(x), 1)) for x in blocks]

  def over_samples(blocks: list[jax.Array]) -> jax.Array:
    """Returns the logarithm of the sum over all samples, f32[K]."""
    largest = functools.reduce(jnp.maximum, [jnp.max(x, 0) for x in blocks])
    largest = axis.pmax(largest)
    sums = (jnp.sum(jnp.exp(x - largest), axis=0) for x in blocks)
    return largest + jnp.log(axis.psum(sum(sums)))

  for _ in range(iterations):
    prototype = over_samples(
      [x - divisor for x, divisor in zip(blocks, divisors, strict=True)]
    )
    divisors = [
      jax.nn.logsumexp(x - prototype, axis=1, keepdims=True) for x in blocks
    ]
    # A row that is not a sample stays at -inf.
    divisors = [jnp.where(jnp.isneginf(x), 0, x) for x in divisors]
  return jax.nn.softmax(scores - prototype)


def koleo(
  x: jax.Array, groups: int, axis: Axis, eps: float = 1e-8
) -> tuple[jax.Array, jax.Array]:
  """Kozachenko-Leonenko regulariser: spreads unit vectors evenly.

  The gradient flows into both vectors of a pair; it is of the global mean.

  Args:
    x: [b, d]; normalised here.
    groups: groups of the global batch; each vector's nearest neighbour is
      sought in its group.
    axis: the batch axis.
    eps: added to each coordinate of a difference, and to a distance.

  Returns:
    f32 scalar loss, the mean over the rows given of -log of the distance to the
    nearest neighbour; f32 scalar, the mean of the distance.

  References:
    Sablayrolles et al., Spreading vectors for similarity search, 2019, eq. 2;
    DINOv2's code.
  """
  x = l2_normalize(x, eps)
  everyone = axis.all_gather(x)  # [B, d]
  row, column = axis.positions(len(x))[:, None], jnp.arange(len(everyone))
  size = len(everyone) // groups
  others = (row // size == column // size) & (row != column)
  similar = jnp.matmul(
    *jax.lax.stop_gradient((x, everyone.T)), precision=jax.lax.Precision.HIGHEST
  )
  nearest = jnp.argmax(jnp.where(others, similar, -jnp.inf), axis=1)
  distance = jnp.linalg.norm(x - everyone[nearest] + eps, axis=-1)
  return -jnp.mean(jnp.log(distance + eps)), jnp.mean(distance)
