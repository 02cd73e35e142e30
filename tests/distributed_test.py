"""Flags and environments that cannot join processes."""

import pytest

from sslx import distributed
from sslx.config import ConfigError


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    (
      ("h:1", None, None),
      "--coordinator without --num_processes, --process_id",
    ),
    ((None, 2, 0), "--num_processes, --process_id without --coordinator"),
    (("localhost", 2, 0), "is not host:port"),
    (("localhost:x", 2, 0), "is not host:port"),
    ((":8476", 2, 0), "is not host:port"),
    (("localhost:99999", 2, 0), "is not host:port"),
    (("localhost:8476", 2, 2), "--process_id=2 is not from 0 to 1"),
    (("localhost:8476", 2, -1), "--process_id=-1 is not from 0 to 1"),
  ],
)
def test_flags_that_do_not_fit_are_refused(flags, message):
  with pytest.raises(ConfigError, match=message):
    distributed._check_flags(*flags)


@pytest.mark.parametrize("flags", [(None, None, None), ("host:8476", 2, 1)])
def test_flags_that_fit_are_accepted(flags):
  distributed._check_flags(*flags)


SLURM = {
  "SLURM_JOB_ID": "7",
  "SLURM_PROCID": "0",
  "SLURM_LOCALID": "0",
  "SLURM_GPUS_ON_NODE": "8",
}


@pytest.mark.parametrize(
  ("more", "ids", "accepted"),
  [
    ({}, None, False),
    ({"SLURM_STEP_TASKS_PER_NODE": "1(x2)"}, None, False),
    ({"SLURM_STEP_TASKS_PER_NODE": "4(x2)"}, None, False),
    ({"SLURM_STEP_TASKS_PER_NODE": "8(x2)"}, None, True),
    ({"SLURM_NTASKS_PER_NODE": "8"}, None, True),
    ({}, [0, 1, 2, 3], True),
    ({"JAX_LOCAL_DEVICE_IDS": "0,1"}, None, True),
    ({"SLURM_GPUS_ON_NODE": "1"}, None, True),
    ({"JAX_PLATFORMS": "cpu"}, None, True),
  ],
)
def test_one_slurm_task_for_several_gpus_is_refused(
  monkeypatch, more, ids, accepted
):
  """JAX would use one of them, even with all flags given."""
  monkeypatch.setenv("JAX_PLATFORMS", "")
  for name, value in (SLURM | more).items():
    monkeypatch.setenv(name, value)
  if accepted:
    distributed._check_slurm(ids)
  else:
    with pytest.raises(ConfigError, match="SLURM gives this node 8 GPUs") as e:
      distributed._check_slurm(ids)
    assert "--local_device_ids=0,1,2,3,4,5,6,7" in str(e.value)
