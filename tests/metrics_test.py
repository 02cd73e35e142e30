"""The log: rows, lateness, speed, and the progress line."""

import io
import json
import math
import types

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from sslx import metrics


class Terminal(io.StringIO):
  def isatty(self):
    return True


def scalars(loss=1.0, finite=True):
  return {
    "loss": jnp.float32(loss),
    "lr": jnp.float32(0.1),
    "grad_norm": jnp.float32(2.0),
    "finite": jnp.bool_(finite),
  }


def log(writer, stream=None, every=2):
  return metrics.Log(
    writer,
    metrics.Progress(stream or io.StringIO()),
    every=every,
    total=10,
    steps_per_epoch=5,
    batch_size=8,
  )


@pytest.fixture
def clock(monkeypatch):
  """Stands still until it is moved on."""
  clock = types.SimpleNamespace(now=100.0)
  fake = types.SimpleNamespace(perf_counter=lambda: clock.now)
  monkeypatch.setattr(metrics, "time", fake)
  return clock


@pytest.fixture
def writer(tmp_path):
  writer = metrics.Writer(tmp_path, 0)
  yield writer
  writer.close()


def test_rows_are_written_an_interval_late_and_once(writer, tmp_path):
  one = log(writer)
  for step in range(1, 5):
    one.add(step, scalars(loss=step))
  assert [r["step"] for r in metrics.read(tmp_path)] == [2]
  one.flush()
  rows = metrics.read(tmp_path)
  assert [(r["step"], r["loss"], r["epoch"]) for r in rows] == [
    (2, 2.0, 0.4),
    (4, 4.0, 0.8),
  ]
  assert rows[1]["images_per_second"] > 0
  assert "finite" not in rows[0]


def test_the_first_bad_step_is_named_even_between_rows(writer):
  one = log(writer, every=4)
  one.add(1, scalars())
  one.add(2, scalars(loss=math.nan, finite=False))
  one.add(3, scalars(loss=math.nan, finite=False))
  with pytest.raises(metrics.NotFiniteError, match="at step 2: loss nan"):
    one.add(4, scalars())


def test_reopening_drops_rows_beyond_the_step_and_half_a_row(tmp_path, capsys):
  path = tmp_path / "metrics.jsonl"
  path.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"st')
  writer = metrics.Writer(tmp_path, 2)
  writer.write(3, {"loss": 0.5})
  writer.close()
  assert [json.loads(line) for line in path.read_text().splitlines()] == [
    {"step": 1},
    {"step": 2},
    {"step": 3, "loss": 0.5},
  ]
  assert "an incomplete row was dropped" in capsys.readouterr().out


@pytest.mark.parametrize("stream", [io.StringIO(), Terminal()])
def test_the_progress_line(stream):
  progress = metrics.Progress(stream)
  for step in (5, 10):
    progress.update(
      step,
      total=20,
      steps_per_epoch=5,
      batch_size=100,
      loss=1.25,
      lr=0.5,
      images_per_second=100 / 360,
      data_wait=0.25 if step == 10 else 0.0,
    )
  progress.note("done")
  text = stream.getvalue()
  first = "epoch 1.0/4  step 5/20  loss 1.2500  lr 0.5  0 images/s  ETA 1:30:00"
  assert first in text
  assert "0 images/s (25% waiting for data)  ETA 1:00:00" in text
  if stream.isatty():
    assert text.count("\n") == 2 and text.count("\r") == 2
  else:
    assert text.count("\n") == 3 and "\r" not in text


def test_the_first_step_counts_as_compilation(writer, tmp_path):
  one = log(writer, every=1)
  one.add(1, scalars())
  one.add(2, scalars())
  one.flush()
  first, second = metrics.read(tmp_path)
  assert "images_per_second" not in first
  assert second["images_per_second"] > 0


def test_rows_say_how_long_the_loop_waited_for_data(writer, tmp_path, clock):
  one = log(writer, every=2)
  # Compilation; then 1 s, of which 0.25 s is the wait for the batch.
  for step, waited in enumerate([5, 0.25, 0.25, 0.25, 0, 0.5], start=1):
    clock.now += 1 if step > 1 else 60
    one.add(step, scalars(), waited)
    if step == 4:
      one.pause(7)  # An evaluation is not training.
      clock.now += 7
  one.flush()
  rows = metrics.read(tmp_path)
  assert [r["step"] for r in rows] == [2, 4, 6]
  # Shares of one second, and of two.
  np.testing.assert_allclose([r["data_wait"] for r in rows], [0.25, 0.25, 0.25])
  np.testing.assert_allclose([r["images_per_second"] for r in rows], 8)


@pytest.mark.parametrize("first", [0, 2, 4])
def test_rows_count_the_bad_images_since_the_row_before(
  writer, tmp_path, first
):
  """So that a run that goes on has the rows of one that did not stop."""
  one = log(writer, every=2)
  replaced = [0, 1, 1, 3, 3, 3, 3, 4]  # after each step of the whole run
  before = replaced[first - 1] if first else 0
  for step in range(first + 1, 9):
    one.add(step, scalars(), 0.0, replaced[step - 1] - before)
  one.flush()
  found = {r["step"]: r["bad_images"] for r in metrics.read(tmp_path)}
  whole = {2: 1, 4: 2, 6: 0, 8: 1}
  assert found == {k: v for k, v in whole.items() if k > first}


def test_a_row_has_the_wait_of_each_process(writer, tmp_path, clock):
  """As three processes that wait 0.25, 0.5 and 0.75 s of each second."""
  gathered = []

  def of_each_process(numbers):
    gathered.append(numbers)
    wait, bad = numbers
    return jnp.float32([[wait, bad], [2 * wait, bad + 1], [3 * wait, bad + 2]])

  one = metrics.Log(
    writer,
    metrics.Progress(io.StringIO()),
    every=2,
    total=10,
    steps_per_epoch=5,
    batch_size=8,
    of_each_process=of_each_process,
  )
  for step in range(1, 6):
    clock.now += 1
    one.add(step, scalars(), 0.25, bad_images=step)
  one.flush()
  assert len(gathered) == 2  # At rows alone: it moves numbers between hosts.
  for row in metrics.read(tmp_path):
    assert row["data_wait"] == 0.75
    assert [row[f"data_wait/{i}"] for i in range(3)] == [0.25, 0.5, 0.75]
    assert row["bad_images"] == 6 + 3 and isinstance(row["bad_images"], int)


def test_duration():
  assert metrics.duration(59.6) == "1:00"
  assert metrics.duration(3723) == "1:02:03"
  assert metrics.duration(math.nan) == "?"


def test_a_picture_is_a_file_of_its_step(writer, tmp_path):
  picture = np.random.default_rng(0).integers(0, 256, (6, 4, 3), np.uint8)
  writer.write_picture(12, "reconstructions", picture)
  saved = Image.open(tmp_path / "reconstructions" / "12.png")
  np.testing.assert_array_equal(np.asarray(saved), picture)
