"""Schedules and durations against formulas written out in numpy."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sslx import config, optim, schedules, settings
from sslx.schedules import Duration, Plan, Schedule
from tests import tiny

PLAN = Plan(batch_size=8, steps_per_epoch=4, total_steps=12, images=32)


def test_durations():
  steps = lambda length: schedules.steps(length, PLAN)
  assert steps(2.0) == steps(Duration(epochs=2)) == 8
  assert steps(0.5) == 2
  assert steps(Duration(steps=5)) == 5
  assert steps(Duration(images=39)) == 4
  assert steps(Duration(share=0.25)) == 3
  assert steps(Duration(share=1.25)) == 15


@pytest.mark.parametrize("given", [{}, {"steps": 1, "epochs": 2.0}])
def test_a_duration_has_one_unit(given):
  message = r"config\.d: one of epochs, steps, images, share must be set"
  with pytest.raises(config.ConfigError, match=message):
    config.build(Duration, given, "d")


def cosine(start, final, done):
  return final + (start - final) * 0.5 * (1 + math.cos(math.pi * min(done, 1)))


@pytest.mark.parametrize(
  "schedule, formula",
  [
    # DINO: momentum 0.996 to 1, weight decay 0.04 to 0.4, both by cosines.
    (Schedule(start=0.996, final=1.0), lambda t: cosine(0.996, 1, t / 12)),
    (Schedule(start=0.04, final=0.4), lambda t: cosine(0.04, 0.4, t / 12)),
    # DINO: the teacher's temperature rises over some epochs and stays.
    (
      Schedule("constant", start=0.07, warmup=2.0, warmup_from=0.04),
      lambda t: 0.04 + 0.03 * min(t, 8) / 8,
    ),
    # I-JEPA: schedules that end after the run.
    (
      Schedule("linear", start=0.996, final=1.0, over=Duration(share=1.25)),
      lambda t: 0.996 + 0.004 * min(t / 15, 1),
    ),
    (
      Schedule(warmup=Duration(steps=3), warmup_from=0.5, over=2.5, final=0.1),
      lambda t: 0.5 + 0.5 * t / 3 if t < 3 else cosine(1, 0.1, (t - 3) / 7),
    ),
    (
      Schedule("linear", per="epoch"),
      lambda t: 1 - min(t // 4 * 4 / 12, 1),
    ),
    (
      Schedule("step", start=2.0, milestones=(1.0, Duration(steps=7))),
      lambda t: 2 * 0.1 ** ((t >= 4) + (t >= 7)),
    ),
  ],
)
def test_curves(schedule, formula):
  schedules.check(schedule, PLAN, "x")
  t = np.arange(20)
  actual = jax.vmap(schedules.curve(schedule, PLAN))(t)
  expected = [formula(int(x)) for x in t]
  np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-7)
  least, most = schedules.bounds(schedule)
  assert least - 1e-6 <= min(expected) and max(expected) <= most + 1e-6


def test_a_number_stays_as_it_is():
  assert schedules.curve(0.2, PLAN)(jnp.int32(3)) == 0.2
  assert schedules.bounds(0.2) == (0.2, 0.2)
  schedules.check(0.2, PLAN, "x")


@pytest.mark.parametrize(
  "schedule, message",
  [
    (Schedule(warmup=3.5), r"warmup is 3\.5, until step 14; .*ends at step 12"),
    (
      Schedule("step", milestones=(1.0, 4.0)),
      r"milestones is \(1\.0, 4\.0\), until step 16; .* ends at step 12",
    ),
    (
      Schedule("step", milestones=(2.0, 1.0)),
      r"milestones is .*at steps \[8, 4\]; .* ascend",
    ),
    (
      Schedule("step", milestones=(0.0,)),
      r"milestones .* after step 0, and ascend",
    ),
    (Schedule(warmup=2.0, over=1.0), r"over is 1\.0, step 4; .* step 8"),
  ],
)
def test_times_outside_the_run_are_errors(schedule, message):
  with pytest.raises(config.ConfigError, match=rf"config\.model\.x\.{message}"):
    schedules.check(schedule, PLAN, "model.x")


OPTIMIZER = {"name": "sgd", "lr": 0.1}


def section(**length):
  given = {"optimizer": OPTIMIZER, "lr": {}} | length
  return config.build(settings.Schedule, given, "schedule")


def test_the_length_of_a_run():
  assert section(epochs=3).plan(8, 32) == PLAN
  assert section(steps=12).plan(8, 32) == PLAN
  assert section(images=103).plan(8, 32) == PLAN
  assert section(images=10**9).length == "1,000,000,000 images"


@pytest.mark.parametrize(
  "length, message",
  [
    ({}, "nothing says how long the run is; set one of epochs, steps and"),
    ({"epochs": 3, "steps": 4}, "epochs=3 and steps=4 says how long"),
    ({"steps": 0}, r"\.steps is 0; it must be at least 1"),
    ({"epochs": 99999999}, r"\.epochs is 99999999; .* at most a million"),
    ({"epochs": 1, "lr": {"final": 1.5}}, r"lr\.final is 1\.5; .* of the peak"),
  ],
)
def test_a_run_without_a_length(length, message):
  with pytest.raises(config.ConfigError, match=message):
    section(**length)


def test_a_run_of_less_than_a_batch():
  message = r"config\.schedule\.images is 7, less than a batch of 8"
  with pytest.raises(config.ConfigError, match=message):
    section(images=7).plan(8, 32)


def test_the_page_on_values_over_a_run():
  page = (tiny.ROOT / "sslx" / "config" / "README.md").read_text()
  (block,) = re.findall(r"```python\n(inherit\(\n  \"mocov3.*?)```", page, re.S)
  said = eval(block, {"inherit": lambda base, **changes: changes})
  momentum = config.build(Schedule, said["model"]["momentum"], "model.momentum")
  assert schedules.bounds(momentum) == (0.996, 1.0)
  said["schedule"]["optimizer"] |= OPTIMIZER
  built = config.build(settings.Schedule, said["schedule"], "schedule")
  plan = built.plan(8, 8 * 1250)
  optim.check(built.optimizer, built.lr, plan)
  assert plan.total_steps == 125_000
  assert built.optimizer.of("freeze", "head/last/kernel") == 1.0
  assert built.optimizer.of("clip", "head/last/kernel") == 3.0


def test_durations_read_well_in_messages():
  assert f"{Duration(steps=5)}" == "5 steps"
  assert f"{Duration(share=0.1)}" == "0.1 of the run"
