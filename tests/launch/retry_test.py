"""The loop that keeps a job going, against a gcloud that plays a scenario."""

import signal
import subprocess
import time

import pytest

from sslx import errors
from sslx.launch import commands, retry
from tests import tiny
from tests.launch import fake

POD = ["pod", "--name=t", "--zone=us-east5-b", "--type=v5p-16", "--spot"]
MIG = [
  "mig",
  *("--name=t", "--project=p", "--zone=us-east5-b"),
  *("--machine=ct6e-standard-4t", "--topology=2x4"),
]
FAST = ["--wait=0.01", "--poll=0.01", "--attempts=3"]
ARGS = ["--", "--config=configs/mae.py", "--workdir=/shared/mae"]
READY = {"pod": "ACTIVE", "mig": "t-0 RUNNING\nt-1 RUNNING"}
LOST = {"pod": "SUSPENDED", "mig": "t-0 TERMINATED\nt-1 TERMINATED"}


def start(folder, scenario, *flags, where=POD):
  environment = fake.install(folder, scenario)
  return subprocess.Popen(
    [f"{tiny.ROOT}/launch/tpu_retry.sh", *where, *FAST, *flags, *ARGS],
    env=environment,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )


def retried(folder, scenario, *flags, where=POD):
  process = start(folder, scenario, *flags, where=where)
  output, _ = process.communicate(timeout=60)
  return process.returncode, output


def life(*runs, states=("ACTIVE",), **more):
  return {"states": list(states), "runs": list(runs), **more}


def ends(code, *, then=None, hosts=2):
  codes = code if isinstance(code, list) else [code] * hosts
  return {"codes": codes} | ({"then": then} if then else {})


def count(folder, *words):
  return sum(
    all(word in line.split() for word in words) for line in fake.log(folder)
  )


def made_and_deleted(folder):
  return (
    count(folder, "queued-resources", "create"),
    count(folder, "queued-resources", "delete"),
  )


def runs(folder):
  return sum("worker.sh run" in line for line in fake.log(folder)) // 2


def test_a_job_that_ends_well_is_run_once_and_its_slice_deleted(tmp_path):
  states = ["WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"]
  code, output = retried(tmp_path, {"lives": [life(ends(0), states=states)]})
  assert code == 0, output
  assert output.count("waiting for the slice") == 2
  assert made_and_deleted(tmp_path) == (1, 1)
  assert runs(tmp_path) == 1
  assert count(tmp_path, "scp") == 2


def test_preempted_while_it_waits(tmp_path):
  lives = [life(states=["PROVISIONING", "SUSPENDED"]), life(ends(0))]
  code, output = retried(tmp_path, {"lives": lives})
  assert code == 0, output
  assert made_and_deleted(tmp_path) == (2, 2)
  assert runs(tmp_path) == 1


@pytest.mark.parametrize("end", [255, 143, 1, [0, 255]])
def test_preempted_while_it_runs(tmp_path, end):
  """Whatever ssh makes of hosts that are gone: also exit 1, of NOT_FOUND."""
  lives = [life(ends(end, then="SUSPENDED")), life(ends(0))]
  code, output = retried(tmp_path, {"lives": lives})
  assert code == 0, output
  assert made_and_deleted(tmp_path) == (2, 2)
  assert runs(tmp_path) == 2
  assert count(tmp_path, "scp") == 4, "new hosts are set up"


def test_a_group_is_made_anew_too(tmp_path):
  lives = [
    life(ends(255, then=LOST["mig"]), states=[READY["mig"]]),
    life(ends(0), states=[READY["mig"]]),
  ]
  code, output = retried(tmp_path, {"lives": lives}, where=MIG)
  assert code == 0, output
  for kind in ("resource-policies", "instance-templates", "instance-groups"):
    assert count(tmp_path, kind, "create") == 2, kind
    assert count(tmp_path, kind, "delete") == 2, kind
  kinds = [line.split()[2] for line in fake.log(tmp_path) if " delete " in line]
  assert kinds[:3] == [
    "instance-groups",
    "instance-templates",
    "resource-policies",
  ], "a group is deleted before what it is made of"


@pytest.mark.parametrize("end", [175, [175, 137], [143, 143]])
def test_a_run_that_asks_for_a_restart_gets_one_on_the_same_slice(
  tmp_path, end
):
  code, output = retried(tmp_path, {"lives": [life(ends(end), ends(0))]})
  assert code == 0, output
  assert made_and_deleted(tmp_path) == (1, 1)
  assert runs(tmp_path) == 2
  assert count(tmp_path, "scp") == 2, "set up once"


@pytest.mark.parametrize("end", [[1, 175], [2, 2], [127, 127]])
def test_an_error_of_the_users_is_not_tried_again(tmp_path, end):
  code, output = retried(tmp_path, {"lives": [life(ends(end), ends(0))]})
  assert code == max(end[0], 1), output
  assert runs(tmp_path) == 1
  assert made_and_deleted(tmp_path) == (1, 1)


def test_so_is_a_set_up_that_fails(tmp_path):
  code, output = retried(tmp_path, {"lives": [life(ends(0), setup=1)]})
  assert code == 1, output
  assert runs(tmp_path) == 0
  assert made_and_deleted(tmp_path) == (1, 1)


def test_without_capacity_it_asks_again(tmp_path):
  refused = [
    "ERROR: RESOURCE_EXHAUSTED: There is no more capacity in the zone",
    "ERROR: code: ZONE_RESOURCE_POOL_EXHAUSTED",
  ]
  code, output = retried(
    tmp_path, {"refused": refused, "lives": [life(ends(0))]}
  )
  assert code == 0, output
  assert made_and_deleted(tmp_path) == (3, 1)


@pytest.mark.parametrize(
  "refusal",
  [
    "ERROR: RESOURCE_EXHAUSTED: Quota limit 'TPUV6EPerProject' exceeded",
    "ERROR: PERMISSION_DENIED: tpu.nodes.create",
    "ERROR: unrecognized arguments: --sopt",
  ],
)
def test_any_other_refusal_ends_it(tmp_path, refusal):
  code, output = retried(tmp_path, {"refused": [refusal] * 9, "lives": []})
  assert code == 1
  assert refusal in output
  assert made_and_deleted(tmp_path) == (1, 0)


@pytest.mark.parametrize(
  "scenario",
  [
    {"refused": ["RESOURCE_EXHAUSTED"] * 9, "lives": []},
    {"lives": [life(ends(175), ends(175)), life(ends(175), ends(175))]},
    {"lives": [life(states=["SUSPENDED"])] * 9},
  ],
)
def test_after_three_failures_in_a_row_it_gives_up(tmp_path, scenario):
  code, output = retried(tmp_path, scenario)
  assert code == errors.RESTART, output
  assert "failure 3 of 3 in a row" in output
  created, deleted = made_and_deleted(tmp_path)
  refused = len(scenario.get("refused", ())) and 3
  assert created - refused == deleted


def test_a_long_run_starts_the_count_anew(tmp_path):
  lives = [life(*[ends(175)] * 5, ends(0)) for _ in range(6)]
  code, output = retried(tmp_path, {"lives": lives}, "--healthy=0")
  assert code == 0, output
  assert runs(tmp_path) == 6
  assert made_and_deleted(tmp_path) == (1, 1)


def test_hosts_that_fail_twice_at_once_are_replaced(tmp_path):
  lives = [life(ends(175), ends(175)), life(ends(0))]
  code, output = retried(tmp_path, {"lives": lives})
  assert code == 0, output
  assert "one may be bad" in output
  assert made_and_deleted(tmp_path) == (2, 2)


def test_a_slice_that_was_there_is_used_and_not_deleted(tmp_path):
  scenario = {
    "made": ["queued-resources"],
    "life": life(ends(175), ends(175), ends(0)),
    "lives": [],
  }
  code, output = retried(tmp_path, scenario)
  assert code == 0, output
  assert made_and_deleted(tmp_path) == (0, 0)


def test_a_lost_slice_that_was_there_is_left_to_its_owner(tmp_path):
  scenario = {
    "made": ["queued-resources"],
    "life": life(states=["SUSPENDED"]),
    "lives": [],
  }
  code, output = retried(tmp_path, scenario)
  assert code == 1
  assert "was not made by this command" in output
  assert made_and_deleted(tmp_path) == (0, 0)


def test_of_a_group_only_what_it_made_is_deleted(tmp_path):
  scenario = {
    "made": ["resource-policies"],
    "lives": [life(ends(0), states=[READY["mig"]])],
  }
  code, output = retried(tmp_path, scenario, where=MIG)
  assert code == 0, output
  assert count(tmp_path, "resource-policies", "create") == 0
  assert count(tmp_path, "resource-policies", "delete") == 0
  assert count(tmp_path, "instance-groups", "delete") == 1


def test_a_slice_can_be_kept(tmp_path):
  code, output = retried(tmp_path, {"lives": [life(ends(0))]}, "--keep")
  assert code == 0
  assert "is kept, and costs" in output
  assert made_and_deleted(tmp_path) == (1, 0)


def test_one_that_cannot_be_deleted_is_told(tmp_path):
  scenario = {"lives": [life(ends(0))], "undeletable": True}
  code, output = retried(tmp_path, scenario)
  assert code == 0
  assert "could not be deleted, and costs" in output


def test_it_waits_no_longer_than_it_was_told(tmp_path):
  lives = [life(states=["WAITING_FOR_RESOURCES"])]
  code, output = retried(tmp_path, {"lives": lives}, "--patience=0.00005")
  assert code == errors.RESTART
  assert "no slice after 5e-05 hours" in output
  assert made_and_deleted(tmp_path) == (1, 1)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stopped_it_deletes_what_it_made(tmp_path, number):
  lives = [life(states=["WAITING_FOR_RESOURCES"])]
  process = start(tmp_path, {"lives": lives}, "--poll=60")
  end = time.monotonic() + 30
  while count(tmp_path, "create") == 0 or count(tmp_path, "describe") < 3:
    assert time.monotonic() < end
    time.sleep(0.05)
  time.sleep(0.5)
  process.send_signal(number)
  output, _ = process.communicate(timeout=60)
  assert process.returncode == 128 + number, output
  assert made_and_deleted(tmp_path) == (1, 1)


def test_back_off_doubles_up_to_its_bound():
  policy = retry.Policy(wait=30, max_wait=300)
  waits = [policy.seconds(i) for i in range(1, 7)]
  assert waits == [30, 60, 120, 240, 300, 300]


@pytest.mark.parametrize(
  ("codes", "expected"),
  [
    ([0, 0], 0),
    ([0, 175], 175),
    ([175, 137], 175),
    ([143, 143], 143),
    ([143, 175], 143),
    ([175, 1], 1),
    ([137, 2, 0], 2),
    ([255, 0], 175),
  ],
)
def test_one_exit_code_of_many(codes, expected):
  assert commands.verdict(codes) == expected
