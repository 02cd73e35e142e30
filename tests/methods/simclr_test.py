"""SimCLR against the official algorithm written out, and known mistakes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import naive, official, tiny
from tests.naive import unit

# Two steps of warm-up, then the rate of epoch 0 until step 4, then of epoch 1.
STEPS, EPOCHS, EPOCH, WARMUP = 6, 3, 4, 2
LR, FIRST, DECAY, TEMPERATURE = 5.0 * tiny.BATCH / 256, 0.25, 0.01, 0.1


def one_way(a, b, mistake):
  """Cross-entropy of each row of `a`, whose positive is that of `b`."""
  itself = jnp.eye(len(a), dtype=bool)
  if mistake == "temperature of the loss, not of the logits":
    between, among = a @ b.T, a @ a.T
  else:
    between, among = a @ b.T / TEMPERATURE, a @ a.T / TEMPERATURE
  positives = jnp.diag(between)
  if mistake == "no positive in the denominator":
    between = jnp.where(itself, -1e9, between)
  if mistake == "a mask of zeros":
    among = jnp.where(itself, 0, among)
  elif mistake != "itself as a negative":
    among = jnp.where(itself, -1e9, among)
  logits = [between, among]
  if mistake == "negatives of the other view only":
    logits = [between]
  losses = jax.nn.logsumexp(jnp.concatenate(logits, 1), axis=1) - positives
  if mistake == "temperature of the loss, not of the logits":
    losses = losses / TEMPERATURE
  return losses.mean()


def nt_xent(z1, z2, mistake):
  """`add_contrastive_loss`: here the mean over both views, as in eq. 1."""
  if mistake == "negatives of one of 8 devices":
    parts = zip(jnp.split(z1, 8), jnp.split(z2, 8), strict=True)
    return sum(nt_xent(*z, "") for z in parts) / 8
  z1, z2 = unit(z1), unit(z2)
  loss = (one_way(z1, z2, mistake) + one_way(z2, z1, mistake)) / 2
  if mistake == "the gradient of one of 8 devices":
    return loss / 8 + jax.lax.stop_gradient(loss * 7 / 8)
  return loss


@naive.compiled
def gradient(params, views, mistake):
  """Of the loss, with what BatchNorm is given, call by call."""

  def loss_of(params):
    if mistake == "views normalised apart":
      (z1, first), (z2, second) = (naive.siamese(x, params) for x in views)
      return nt_xent(z1, z2, mistake), [first, second]
    z, given = naive.siamese(jnp.concatenate(views), params)
    return nt_xent(*jnp.split(z, 2), mistake), [given]

  return jax.value_and_grad(loss_of, has_aux=True)(params)


def official_steps(taken, mistake=""):
  """The official loss and LARS, with MMSelfSup's schedule."""
  params, stats = taken.start.params, taken.start.model_state
  velocity = jax.tree.map(np.zeros_like, params)
  spare = mistake != "trust of biases and norms"
  losses, rates, gradients = [], [], []
  for step, views in enumerate(taken.views):
    (loss, seen), grads = gradient(params, views, mistake)
    for given in seen:
      stats = naive.moments(stats, given)
    whole = step if mistake == "a rate by steps" else step // EPOCH * EPOCH
    done = max(whole - WARMUP, 0) / (EPOCHS * EPOCH - WARMUP)
    rate = LR * naive.cosine(done)
    if step < WARMUP:
      rate = LR * (FIRST + (1 - FIRST) * step / WARMUP)
    params, velocity = lars(params, velocity, grads, rate, mistake, spare)
    losses.append(loss)
    rates.append(rate)
    gradients.append(grads)
  return {
    "loss": losses,
    "rate": rates,
    "gradient": gradients,
    "parameters": params,
    "statistics": stats,
  }


def lars(params, velocity, grads, rate, mistake, spare):
  """`LARSOptimizer`: the momentum is of what is subtracted."""
  if mistake == "a momentum without the rate":
    direction = lambda g, p: naive.lars(g, p, DECAY, spare)
    return naive.descend(params, velocity, grads, rate, direction)
  direction = lambda g, p: rate * naive.lars(g, p, DECAY, spare)
  return naive.descend(params, velocity, grads, 1, direction)


OFFICIAL = official.Case(
  "simclr",
  "google-research/simclr: objective.py, lars_optimizer.py; eq. 1;"
  " rates of open-mmlab/mmselfsup",
  lambda: tiny.method_config(
    "simclr",
    schedule__epochs=EPOCHS,
    schedule__lr__warmup=WARMUP / EPOCH,
    schedule__lr__warmup_from=FIRST,
    schedule__optimizer__lr=5.0,
    schedule__optimizer__weight_decay=DECAY,
  ),
  STEPS,
  official_steps,
  {
    "negatives of the other view only": "",
    "temperature of the loss, not of the logits": "",
    "no positive in the denominator": "decoupled contrastive learning",
    "itself as a negative": "",
    "a mask of zeros": "",
    "negatives of one of 8 devices": "lightning-bolts#179",
    "the gradient of one of 8 devices": "MMSelfSup; lightly#1528",
    "views normalised apart": "",
    "trust of biases and norms": "optax.lars without masks",
    "a momentum without the rate": "MoCo v3's LARS",
    "a rate by steps": "",
  },
)


@pytest.fixture(scope="module")
def taken():
  return OFFICIAL.take()


def test_six_steps_equal_the_official_algorithm(taken):
  found = OFFICIAL.differences(taken)
  assert OFFICIAL.fits(found), found


@pytest.mark.slow
@pytest.mark.parametrize("mistake", OFFICIAL.mistakes)
def test_a_known_mistake_is_seen(taken, mistake):
  assert OFFICIAL.catches(OFFICIAL.differences(taken, mistake))
