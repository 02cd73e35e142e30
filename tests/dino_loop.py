"""What the training loops of DINO, iBOT and DINOv2 share, written out."""

import jax
import jax.numpy as jnp
import numpy as np

from sslx.axis import Axis
from sslx.methods.run import Run
from tests import naive, tiny

EPS, EMA, PEAK, LAST = 1e-3, 0.8, 0.1, 1e-3
TEMPERATURE, PATCH, HEADS = 0.1, 4, 2

# Known wrong variants of a loop, and which suites have them.
MISTAKES = {
  "a constant weight decay": "DINO in lightly and MMPreTrain",
  "all decayed": "",
  "clipped as a whole": "",
  # It drops the gradients before there are any.
  "not frozen": "DINO in lightly",
  "a constant momentum": "",
  "before the optimiser": "DINO in lightly",
}


def vit_config(method, temperature, **changes):
  """A config in which all that has a schedule changes; `temperature` too."""
  changes = {
    "schedule__epochs": 2,
    "schedule__optimizer__lr": PEAK,
    "schedule__lr__final": LAST,
    "model__backbone__depth": 1,
    # Larger weights, so that images have features apart.
    "model__backbone__weight_init": "xavier",
    "model__momentum__start": EMA,
    **changes,
  }
  config = tiny.vit_config(method, **changes)
  with config.unlocked(), config.ignore_type():
    decay = {"kind": "cosine", "start": 0.04, "final": 0.4}
    config.schedule.optimizer.weight_decay = decay
    config.model.teacher_temperature = temperature
  return config


def vit(params, views, masks=()):
  """The tokens of each view; the first ones have a mask."""
  masks = [*masks, *[None] * len(views)]
  return [
    naive.vit(x, params["backbone"], PATCH, HEADS, mask)
    for x, mask in zip(views, masks, strict=False)
  ]


def softmax(x):
  x = np.exp(x - np.max(x, -1, keepdims=True))
  return x / x.sum(-1, keepdims=True)


def cross_entropy(q, scores):
  """Of targets and the student's scores, [..., K]."""
  x = scores / TEMPERATURE
  x = x - jax.scipy.special.logsumexp(x, -1, keepdims=True)
  return -jnp.sum(q * x, -1)


def koleo(x, groups):
  """KoLeo of x[B, d], by groups."""
  total = 0
  for group in jnp.split(naive.unit(x), groups):
    dots = group @ group.T - 3 * jnp.eye(len(group))
    near = group[jax.lax.stop_gradient(dots).argmax(1)]
    distances = jnp.sqrt(jnp.sum((group - near + 1e-8) ** 2, -1))
    total -= jnp.mean(jnp.log(distances + 1e-8))
  return total / groups


def masks(taken):
  """The masks of each update, bool[2, B, n], as the loss draws them."""
  step, start = taken.experiment.step, taken.start

  @jax.jit
  def draw(key, views):
    run = Run(
      step.method, start.params, start.model_state, start.aux,
      {"views": views}, key, jnp.int32(0), Axis(),
    )  # fmt: skip
    return step.method._mask(run).swapaxes(0, 1)

  with jax.enable_x64(False):  # Or other numbers would be drawn.
    pairs = zip(taken.keys, taken.views, strict=True)
    return [jax.device_get(draw(key, views)) for key, views in pairs]


class Loop:
  """`train_one_epoch` from the gradients on; DINOv2's has other factors.

  Attributes:
    student, teacher: parameters.
    step: updates so far.
  """

  def __init__(self, taken, mistake, *, total, freeze, clip, whole=False,
               factor=lambda name: 1.0):  # fmt: skip
    """Starts where sslx has.

    Args:
      taken: the updates of sslx.
      mistake: one of MISTAKES, or anything else.
      total: updates of the run.
      freeze: updates in which the prototypes stay.
      clip: the largest norm of a gradient.
      whole: whether that is the norm of all gradients.
      factor: of the learning rate, by the name of a parameter.
    """
    self.start, self.mistake = taken.start, mistake
    self.total, self.freeze, self.clip = total, freeze, clip
    self.whole = whole or mistake == "clipped as a whole"
    self.factor = factor
    self.student, self.teacher = self.start.params, self.start.aux["params"]
    self.step, self.state = 0, {}
    self.losses, self.rates, self.gradients = [], [], []

  def between(self, start, final):
    """Half a cosine over the run: `cosine_scheduler`."""
    return final + (start - final) * naive.cosine(self.step / self.total)

  def update(self, loss, grads):
    """Moves student and teacher."""
    self.losses.append(loss)
    self.rates.append(PEAK * tiny.BATCH / 256 * self.between(1, LAST))
    self.gradients.append(grads)
    norm = lambda x: np.sqrt(sum(np.sum(g**2) for g in jax.tree.leaves(x)))
    least = lambda x: min(1, self.clip / (norm(x) + 1e-6))
    whole = least(grads) if self.whole else None
    grads = jax.tree.map(lambda g: g * (whole or least(g)), grads)
    before = self.student
    self.student = jax.tree.map_with_path(self._adamw, before, grads)
    followed = self.student
    if self.mistake == "before the optimiser":
      followed = before
    kept = EMA
    if self.mistake != "a constant momentum":
      kept = self.between(EMA, 1)
    self.teacher = naive.follow(self.teacher, followed, kept)
    self.step += 1

  def _adamw(self, path, p, g):
    """One parameter after the step; a frozen one has no gradient."""
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    frozen = self.step < self.freeze and self.mistake != "not frozen"
    if "prototypes" in name and frozen:
      return p
    decay = 0.04
    if self.mistake != "a constant weight decay":
      decay = self.between(0.04, 0.4)
    one_d = p.ndim == 1 or name.endswith("bias")
    if one_d and self.mistake != "all decayed":
      decay = 0
    count, moments = self.state.get(name, (0, None))
    rate = self.rates[-1] * self.factor(name)
    p, moments = naive.adamw(
      p, moments, g, count, rate, b2=0.999, decay=lambda _: decay, eps=EPS
    )
    self.state[name] = count + 1, moments
    return p

  def reached(self, statistics=None, of_teacher=None, **buffers):
    """What a case compares; without BatchNorm its statistics stay."""
    return {
      "loss": self.losses,
      "rate": self.rates,
      "gradient": self.gradients,
      "parameters": self.student,
      "statistics": statistics or self.start.model_state,
      "teacher": self.teacher,
      "teacher's statistics": of_teacher or self.start.aux["model_state"],
      **buffers,
    }
