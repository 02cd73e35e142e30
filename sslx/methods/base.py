"""What a method is: its networks, and its loss.

A paper's file holds a subclass of `Method`: a frozen dataclass of networks and
numbers with one duty, `loss(run)`. Everything else that the training step, the
evaluation and the export need is written here once.
"""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import optax

from sslx import models, schedules
from sslx.config import ConfigError
from sslx.data.views import Slot, View, unshuffled
from sslx.methods.run import Aux, Batch, ModelState, Params, Run
from sslx.schedules import Plan, Schedule

Network = Literal["student", "teacher"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Method:
  """A paper's method. A subclass is a frozen dataclass, and holds no arrays.

  Its fields are the keys of config section `model`, except `plan`. A field that
  is a Linen module is a network; networks are initialised in the order of the
  fields. `loss` must be defined; the rest has defaults.

  Attributes:
    teachers: names of the networks of which a moving average, the teacher, is
      kept; a field that is None, a network that is left out, may be among them.
    evaluated: the network that the paper evaluates. It is evaluated and probed
      during the run, exported, and taken by other runs.
    num_views: least and most views of each image; no bound if most is None.
    takes: the kind of the views, a name in `data.views.KINDS`.
    linked: whether some of the views may be linked: the same crop once more.
    clusters: name of the features that `on_epoch` is given.
    accumulates: whether the loss is a mean over examples and only BatchNorm
      groups couple them, so that a batch can be cut into micro-batches. Where
      that depends on the settings, it is a property.
    backbone: maps images to features f32[b, d].
    plan: the run that the method is built for.
  """

  teachers: ClassVar[tuple[str, ...]] = ()
  evaluated: ClassVar[Network] = "student"
  num_views: ClassVar[tuple[int, int | None]] = (2, 2)
  takes: ClassVar[str] = "crop"
  linked: ClassVar[bool] = False
  clusters: ClassVar[str] = "final"
  accumulates: ClassVar[bool] = False

  backbone: models.BACKBONE
  plan: Plan = Plan()

  def loss(self, run: Run) -> jax.Array:
    """Returns the loss of these examples, a f32 scalar; sets `run.features`."""
    raise NotImplementedError

  def draw(
    self, rng: jax.Array, batch: Batch
  ) -> tuple[Params, ModelState, Aux]:
    """Draws parameters, BatchNorm statistics and buffers.

    By default each network takes the output of the one before, the first one a
    view. A method with other inputs, further parameters or buffers overrides
    this.

    Args:
      rng: a key.
      batch: a batch of two images, as `loss` is given; only its shapes matter.

    Raises:
      ConfigError: the method cannot use the views.
    """
    return *chain(self.networks, rng, batch["views"][0]), {}

  def momentum_at(self, step: jax.Array) -> jax.Array | float:
    """Returns the teacher's momentum for the update after a step.

    By default it is the value of the field `momentum` at this step.

    Args:
      step: int32 scalar, optimiser steps taken before this one.
    """
    return schedules.curve(self.momentum, self.plan)(step)

  def project(self, params: Params) -> Params:
    """Returns the parameters after an optimiser step, with constraints met."""
    return params

  def encode(
    self, params: Params, model_state: ModelState, images: jax.Array
  ) -> dict[str, jax.Array]:
    """Computes features for evaluation, with running statistics.

    By default these are all features of the backbone, and "projector", the
    output of the head of that name, if there is one.

    Args:
      params: parameters of the evaluated network.
      model_state: BatchNorm statistics of the evaluated network.
      images: f32[b, s, s, c], normalised.

    Returns:
      f32[b, d] by name; "final" names the features in `Output.features`.
    """

    def apply(name: str, x: jax.Array, **arguments: Any) -> Any:
      variables = {"params": params[name], "batch_stats": model_state[name]}
      return self.networks[name].apply(variables, x, train=False, **arguments)

    features = apply("backbone", images, every=True)
    if "projector" in self.networks and "projector" in params:
      features["projector"] = apply("projector", features["final"])
    return features

  def pictures(self, run: Run) -> dict[str, jax.Array]:
    """Draws pictures of the first view of a run; none by default.

    Returns:
      Rows of normalised images, f32[rows, b, s, s, c] by name.
    """
    del run
    return {}

  def on_epoch(
    self, features: jax.Array, valid: jax.Array, buffers: Aux, rng: jax.Array
  ) -> Aux:
    """Renews the buffers before each epoch, such as clusters of all images.

    A method that does not define it has no such phase. Otherwise the evaluated
    network encodes the whole training set in its evaluation view before the
    first step of each epoch. A checkpoint of that step is of before: a run that
    resumes from it does the same again.

    It is traced by `jax.jit` over global arrays. An ImageNet's features do not
    fit one device, so they stay where they were computed: write it in sums and
    products over both first axes, and no device gathers them.

    Args:
      features: f32[n, B, d], sharded over B. Image i of the set is
        `features[i // B, i % B]`, so that `x.reshape(-1)[: self.plan.images]`
        makes one number for each image of x [n, B].
      valid: bool[n, B], False for padding and images that cannot be decoded.
      buffers: the buffers, as in `run.buffers`.
      rng: a key of the seed and the epoch.

    Returns:
      All buffers, of the same shapes and dtypes.
    """
    raise NotImplementedError

  @property
  def frozen(self) -> tuple[str, ...]:
    """Patterns of the parameters that are never trained."""
    patterns = getattr(self.backbone, "frozen", ())
    return tuple(f"^backbone/{pattern}" for pattern in patterns)

  def check_durations(self) -> None:
    """Checks the method's durations against the length of the run.

    By default these are the durations of its schedules.

    Raises:
      ConfigError: something would never happen in a run of this plan.
    """
    for field in dataclasses.fields(self):
      value = getattr(self, field.name)
      if isinstance(value, Schedule):
        schedules.check(value, self.plan, f"model.{field.name}")

  def slots(self, views: tuple[View, ...]) -> tuple[Slot, ...]:
    """Returns the slots that `loss` needs, given the views of each image.

    Raises:
      ConfigError: the method cannot use these views.
    """
    name, (least, most) = type(self).__name__, self.num_views
    for view in views:
      if view.kind != self.takes:
        raise ConfigError(
          f"config.data.views has a view of kind {view.kind!r}; {name} takes"
          f" views of kind {self.takes!r}."
        )
      if view.link is not None and not self.linked:
        raise ConfigError(
          f"config.data.views has a view with link={view.link}, the same crop"
          f" once more; {name} takes independent views. Set its link to None."
        )
    n = len(views)
    if n < least or (most is not None and n > most):
      given = "is 1 view" if n == 1 else f"are {n} views"
      wanted = {least: f"{least}", None: f"{least} or more"}
      wanted = wanted.get(most, f"{least} to {most}")
      raise ConfigError(
        f"config.data.views {given} of each image; {name} takes {wanted}. Give"
        " more or fewer, or set their `count`."
      )
    return unshuffled(n)

  # Subclasses do not override what follows.

  @property
  def networks(self) -> dict[str, models.Network]:
    """The networks by name, in the order of the fields."""
    values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
    return {k: x for k, x in values.items() if isinstance(x, models.Network)}

  @property
  def taught(self) -> tuple[str, ...]:
    """Names of the networks that have a teacher."""
    return tuple(name for name in self.teachers if name in self.networks)

  @property
  def tensor_rules(self) -> tuple[tuple[str, int], ...]:
    """Which dimensions a model axis shards; see `parallel.Rules`."""
    rules = [getattr(x, "tensor_rules", ()) for x in self.networks.values()]
    return tuple(dict.fromkeys(itertools.chain(*rules)))

  def init(
    self, rng: jax.Array, batch: Batch
  ) -> tuple[Params, ModelState, Aux]:
    """Draws everything, as `draw`; `aux` has the buffers and the teacher."""
    params, model_state, buffers = self.draw(rng, batch)
    return params, model_state, self.adopt(params, model_state, buffers)

  def adopt(self, params: Params, model_state: ModelState, aux: Aux) -> Aux:
    """Returns `aux` with a copy of the student as the teacher."""
    if not self.teachers:
      return aux
    # A real copy in memory, because each buffer can be donated only once.
    copy = lambda tree: {
      name: jax.tree.map(jnp.copy, tree[name]) for name in self.taught
    }
    return {**aux, "params": copy(params), "model_state": copy(model_state)}

  def after_update(
    self, params: Params, aux: Aux, new: Aux, step: jax.Array
  ) -> tuple[Params, Aux]:
    """Does what a paper does after an optimiser step: projections, teacher.

    Args:
      params: parameters after the step.
      aux: the teacher and the buffers before the step.
      new: `Output.aux` of the step.
      step: int32 scalar, optimiser steps taken before this one.
    """
    params = self.project(params)
    if not self.teachers:
      return params, new
    momentum = self.momentum_at(step)
    followed = optax.incremental_update(
      {name: params[name] for name in self.taught},
      aux["params"],
      1 - momentum,
    )
    return params, {**new, "params": followed}

  def of_network(
    self, params: Params, model_state: ModelState, aux: Aux
  ) -> tuple[Params, ModelState]:
    """Returns parameters and BatchNorm statistics of the evaluated network."""
    if self.evaluated == "student":
      return params, model_state
    return aux["params"], aux["model_state"]


def check_class(cls: type, name: str) -> None:
  """Checks that a class from outside the package keeps to the interface.

  Args:
    cls: the class.
    name: its name in METHODS.

  Raises:
    ConfigError: it does not.
  """
  told = f"config.model.method={name!r} is {cls.__module__}.{cls.__name__}, "
  if not issubclass(cls, Method):
    raise ConfigError(f"{told}which is not a subclass of methods.base.Method.")
  if "__dataclass_params__" not in vars(cls):
    raise ConfigError(
      f"{told}which is not a dataclass: its fields would be ignored. Decorate"
      " it with @dataclasses.dataclass(frozen=True, kw_only=True)."
    )
  if cls.loss is Method.loss:
    raise ConfigError(f"{told}which does not define `loss`.")
  named = {field.name for field in dataclasses.fields(cls)}
  own = cls.momentum_at is not Method.momentum_at
  if cls.teachers and "momentum" not in named and not own:
    raise ConfigError(
      f"{told}which has `teachers`, but neither a field `momentum` nor"
      " `momentum_at`."
    )
  if cls.evaluated == "teacher" and "backbone" not in cls.teachers:
    raise ConfigError(
      f"{told}whose `evaluated` is 'teacher', but 'backbone' is not among its"
      " `teachers`."
    )


def chain(
  networks: dict[str, models.Network], rng: jax.Array, x: jax.Array
) -> tuple[Params, ModelState]:
  """Initialises networks: each takes the output of the one before.

  Args:
    networks: by name, in the order of the chain.
    rng: split into one key for each network.
    x: input of the first network; only its shape matters.
  """
  params, model_state = {}, {}
  keys = jax.random.split(rng, len(networks))
  for key, (name, network) in zip(keys, networks.items(), strict=True):
    x, variables = network.init_with_output(key, x, train=False)
    params[name] = variables["params"]
    model_state[name] = variables.get("batch_stats", {})
  return params, model_state
