"""sslx.main --distributed alone, with the environment of each provider.

JAX's own detection runs as it would there, on CPUs. That the processes train as
one job shows in the losses: those of one process without --distributed.
"""

import contextlib

import numpy as np
import pytest

from tests.launch import jobs

pytestmark = pytest.mark.slow

TPU = {"JAX_FORCE_TPU_INIT": "1"}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
  return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def alone(tmp_path_factory, cache):
  """Losses of one process that is on its own."""
  workdir = tmp_path_factory.mktemp("alone")
  jobs.train(workdir, [{}], cache, "--nodistributed")
  return jobs.losses(workdir)


def check(workdir, alone, outputs):
  found = jobs.losses(workdir)
  assert found.keys() == alone.keys() == {1, 2, 3, 4}
  # The first step has the same state; training amplifies its rounding.
  np.testing.assert_allclose(found[1], alone[1], rtol=1e-4)
  for step in (2, 3, 4):
    np.testing.assert_allclose(found[step], alone[step], rtol=3e-2)
  # One process speaks for all.
  assert sum("kNN accuracy (k=20) after" in text for text in outputs) == 1
  assert any("batch 1024 = 2 x 512" in text for text in outputs), outputs


def gke(hosts, worker, slices=1, slice_id=0):
  return TPU | {
    "TPU_WORKER_HOSTNAMES": hosts,
    "TPU_WORKER_ID": str(worker),
    "MEGASCALE_COORDINATOR_ADDRESS": "localhost",
    "MEGASCALE_NUM_SLICES": str(slices),
    "MEGASCALE_SLICE_ID": str(slice_id),
  }


@pytest.mark.parametrize(
  "environments",
  [
    [gke("localhost,localhost", i) for i in range(2)],
    [gke("localhost", 0, 2, i) for i in range(2)],
  ],
  ids=["two hosts", "two slices"],
)
def test_gke(environments, alone, cache, tmp_path):
  port = {"JAX_COORDINATOR_PORT": str(jobs.port())}
  environments = [environment | port for environment in environments]
  check(tmp_path, alone, jobs.train(tmp_path, environments, cache))


def test_compute_engine(alone, cache, tmp_path):
  port = {"JAX_COORDINATOR_PORT": str(jobs.port())}
  with contextlib.ExitStack() as stack:
    addresses = [
      stack.enter_context(
        jobs.metadata(
          {
            "agent-worker-number": str(i),
            "worker-network-endpoints": "localhost,localhost",
            "tpu-env": f"TPU_WORKER_ID: '{i}'",
          }
        )
      )
      for i in range(2)
    ]
    environments = [
      TPU | port | {"GCE_METADATA_IP": address} for address in addresses
    ]
    outputs = jobs.train(
      tmp_path,
      environments,
      cache,
      program=("tests/launch/on_tpu.py", "-m", "sslx.main"),
    )
  check(tmp_path, alone, outputs)


def test_slurm(alone, cache, tmp_path):
  environments = [
    {
      "SLURM_JOB_ID": "7",
      "SLURM_STEP_NODELIST": "localhost",
      "SLURM_NTASKS": "2",
      "SLURM_PROCID": str(i),
      "SLURM_LOCALID": str(i),
      "JAX_COORDINATOR_PORT": str(port),
    }
    for port in [jobs.port()]
    for i in range(2)
  ]
  check(tmp_path, alone, jobs.train(tmp_path, environments, cache))
