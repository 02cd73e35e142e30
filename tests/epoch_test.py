"""`Method.on_epoch`: clusters of all images, before each epoch."""

import contextlib
import dataclasses
import socket
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from sklearn.cluster import KMeans

from sslx import experiment, methods, metrics, train
from sslx.checkpoint import Checkpoint, Checkpoints
from sslx.config import ConfigError
from sslx.data import operations
from sslx.job import Job
from sslx.methods.base import Method
from tests import tiny

IMAGES, EPOCHS, PER_EPOCH = 52, 3, 3
ROUNDS = 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class Clusters(Method):
  """Draws each image towards the mean of its cluster."""

  num_views = (1, 2)

  count: int = 4
  wrong: str = ""

  def draw(self, rng, batch):
    params, model_state, _ = super().draw(rng, batch)
    return (
      params,
      model_state,
      {
        "means": jnp.zeros((self.count, 12)),
        "cluster": jnp.zeros(self.plan.images, jnp.int32),
        "calls": jnp.int32(0),
        "key": jnp.zeros(2, jnp.uint32),
      },
    )

  def loss(self, run):
    run.features = run("backbone", run.views[0])
    cluster = run.buffers["cluster"][run.index]
    return jnp.mean((run.features - run.buffers["means"][cluster]) ** 2)

  def on_epoch(self, features, valid, buffers, rng):
    one_hot = lambda x: jax.nn.one_hot(x, self.count) * valid[..., None]

    def nearest(means):
      apart = features[..., None, :] - means  # [n, B, k, d]
      return jnp.argmin(jnp.sum(apart**2, axis=-1), axis=-1)

    def move(_, means):
      mine = one_hot(nearest(means))
      sums = jnp.einsum("nbk,nbd->kd", mine, features, precision="highest")
      return sums / jnp.sum(mine, axis=(0, 1))[:, None]

    # The first images are the first means.
    means = jax.lax.fori_loop(0, ROUNDS, move, features[0, : self.count])
    flat = nearest(means).reshape(-1)[: self.plan.images].astype(jnp.int32)
    new = {
      "means": means,
      "cluster": flat,
      "calls": buffers["calls"] + 1,
      "key": jax.random.key_data(rng),
    }
    if self.wrong == "absent":
      del new["means"]
    if self.wrong == "shape":
      new["cluster"] = flat[:-1]
    return new


@pytest.fixture(autouse=True)
def known(monkeypatch):
  monkeypatch.setitem(methods.METHODS, "clusters", Clusters)


def config_of(**model):
  """Three steps an epoch; evaluation in batches of 24, which pads the set."""
  config = tiny.config(
    data__train=f"train[:{IMAGES}]",
    data__test="test[:20]",
    schedule__epochs=EPOCHS,
    runtime__evaluate__batch_size=24,
    runtime__evaluate__every_epochs=100.0,
    runtime__evaluate__knn__k=(5,),
    runtime__checkpoint__every_epochs=1.0,
    runtime__checkpoint__keep_last=9,
  ).unlock()
  model = {"method": "clusters", "backbone": {"name": "convs"}} | model
  config.model = ConfigDict(model)
  return config


@pytest.mark.parametrize("devices", [1, 2])
def test_clusters_are_those_of_scikit_learn(devices):
  made = experiment.build(config_of(), jax.devices()[:devices])
  assert made.order.steps_per_epoch == PER_EPOCH
  state = made.init_state()
  new = made.epoch_start(state)
  # Everything but the buffers is as it was.
  for name in ("params", "model_state", "opt_state", "probe", "rng", "step"):
    assert getattr(new, name) is getattr(state, name)
  data = made.data
  images = operations.normalize(made.train.images, data.mean, data.std)
  encode = jax.jit(made.step.method.encode)
  host = jax.device_get((state.params, state.model_state))
  features = np.asarray(encode(*host, images)["final"], np.float64)
  assert len(features) == IMAGES
  expected = KMeans(4, init=features[:4], n_init=1, max_iter=ROUNDS, tol=0)
  expected.fit(features)
  np.testing.assert_array_equal(new.aux["cluster"], expected.labels_)
  assert len(set(expected.labels_)) == 4
  np.testing.assert_allclose(
    new.aux["means"], expected.cluster_centers_, atol=1e-5
  )
  assert new.aux["means"].sharding == state.aux["means"].sharding


def test_a_method_without_has_none():
  assert experiment.build(tiny.config()).epoch_start is None


@pytest.mark.parametrize(
  ("wrong", "message"),
  [
    ("absent", r"the buffer 'means' as nothing; .* float32\[4, 12\]"),
    ("shape", r"the buffer 'cluster' as int32\[51\]; .* int32\[52\]"),
  ],
)
def test_buffers_that_change_are_refused_before_the_run(wrong, message):
  with pytest.raises(ConfigError, match=message):
    experiment.build(config_of(wrong=wrong))


def test_features_that_are_not_there_are_refused(monkeypatch):
  monkeypatch.setattr(Clusters, "clusters", "stage9")
  with pytest.raises(ConfigError, match=r"clusters is 'stage9'; .* 'final'"):
    experiment.build(config_of())


class Ending(Job):
  """Ends the run after a step: by a signal, or at once, as a kill would."""

  def __init__(self, step, kill=False):
    super().__init__()
    self._end, self._kill = step, kill

  def stopping(self, step):
    if step == self._end and self._kill:
      raise KeyboardInterrupt
    return 15 if step == self._end else None


def run(workdir, devices, job=None):
  """Trains; returns the last state and the rows of the log."""
  config, devices = config_of(), jax.devices()[:devices]
  train.run(config, workdir, devices=devices, job=job)
  made = experiment.build(config, devices)
  opened = Checkpoints(workdir / "checkpoints", Checkpoint(), PER_EPOCH)
  with contextlib.closing(opened):
    state, _ = opened.restore(made.abstract_state)
  return jax.device_get(state), metrics.read(workdir)


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 2])
def test_a_resumed_run_is_bitwise_the_same(tmp_path, devices):
  whole, rows = run(tmp_path / "whole", devices)
  assert whole.step == EPOCHS * PER_EPOCH
  assert whole.aux["calls"] == EPOCHS
  told = [row["step"] for row in rows if row.get("on_epoch_seconds", -1) > 0]
  assert told == [0, PER_EPOCH, 2 * PER_EPOCH]
  losses = {row["step"]: row["loss"] for row in rows if "loss" in row}
  assert len(losses) == EPOCHS * PER_EPOCH

  ends = {
    # Saved within an epoch; and at its end, before the next is prepared.
    "within": Ending(PER_EPOCH + 1),
    "border": Ending(PER_EPOCH),
    # The last checkpoint is of before an epoch that was prepared.
    "killed": Ending(PER_EPOCH + 2, kill=True),
  }
  for name, job in ends.items():
    with pytest.raises((SystemExit, KeyboardInterrupt)):
      run(tmp_path / name, devices, job)
    state, rows = run(tmp_path / name, devices)
    jax.tree.map(np.testing.assert_array_equal, state, whole)
    found = {row["step"]: row["loss"] for row in rows if "loss" in row}
    assert found == losses, name


PROCESS = """
import sys
import jax
import numpy as np

process, port, out = sys.argv[1:]
jax.distributed.initialize(f"localhost:{port}", 2, int(process))
from sslx import experiment, methods, parallel
from tests import epoch_test
methods.METHODS["clusters"] = epoch_test.Clusters
made = experiment.build(epoch_test.config_of())
buffers = parallel.to_host(made.epoch_start(made.init_state()).aux)
np.savez(f"{out}/{process}.npz", **buffers)
"""


@pytest.mark.slow
def test_two_processes_have_the_same_clusters(tmp_path):
  with socket.socket() as free:
    free.bind(("localhost", 0))
    port = free.getsockname()[1]
  started = [
    subprocess.Popen(
      [sys.executable, "-c", PROCESS, str(i), str(port), tmp_path],
      cwd=tiny.ROOT,
      env=tiny.environment(),
    )
    for i in range(2)
  ]
  assert [process.wait(timeout=300) for process in started] == [0, 0]
  made = experiment.build(config_of(), jax.devices()[:2])
  expected = jax.device_get(made.epoch_start(made.init_state()).aux)
  for i in range(2):
    found = dict(np.load(tmp_path / f"{i}.npz"))
    np.testing.assert_array_equal(found["cluster"], expected["cluster"])
    tiny.assert_close(found["means"], expected["means"], 1e-5)
    np.testing.assert_array_equal(found["key"], expected["key"])
