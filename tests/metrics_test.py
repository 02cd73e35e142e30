"""The log: rows, lateness, speed, and the progress line."""

import contextlib
import io
import json
import math
import types

import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from PIL import Image
from tensorboardX.proto import event_pb2

from sslx import metrics
from sslx.boards import TensorBoard
from sslx.errors import StorageError
from sslx.progress import Progress, duration
from tests import fake_store


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
    Progress(stream or io.StringIO()),
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
  writer = metrics.Writer(epath.Path(tmp_path), 0)
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
  writer = metrics.Writer(epath.Path(tmp_path), 2)
  writer.write(3, {"loss": 0.5})
  writer.close()
  assert [json.loads(line) for line in path.read_text().splitlines()] == [
    {"step": 1},
    {"step": 2},
    {"step": 3, "loss": 0.5},
  ]
  assert "its last row is incomplete" in capsys.readouterr().out


@pytest.mark.parametrize("stream", [io.StringIO(), Terminal()])
def test_the_progress_line(stream):
  progress = Progress(stream)
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
    Progress(io.StringIO()),
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
  assert duration(59.6) == "1:00"
  assert duration(3723) == "1:02:03"
  assert duration(math.nan) == "?"


def test_a_picture_is_a_file_of_its_step(writer, tmp_path):
  picture = np.random.default_rng(0).integers(0, 256, (6, 4, 3), np.uint8)
  writer.write_picture(12, "reconstructions", picture)
  saved = Image.open(tmp_path / "pictures" / "reconstructions-12.png")
  np.testing.assert_array_equal(np.asarray(saved), picture)


def events(folder):
  """All events of a folder's files, in the order of their names."""
  found = []
  for path in sorted(folder.glob("events.*")):
    data, place = path.read_bytes(), 0
    while place < len(data):
      size = int.from_bytes(data[place : place + 8], "little")
      found.append(
        event_pb2.Event.FromString(data[place + 12 : place + 12 + size])
      )
      place += size + 16  # Two checksums.
  return found


def scalars_of(folder):
  return [
    (event.step, value.tag, value.simple_value)
    for event in events(folder)
    for value in event.summary.value
  ]


def test_tensorboard_has_each_number_and_drops_later_steps(tmp_path):
  folder = epath.Path(tmp_path / "tensorboard")
  board = TensorBoard(folder, 0)
  for step in (1, 2):
    board.add_scalars(step, {"loss": step / 2})
  board.close()
  board = TensorBoard(folder, 2)  # Goes on from step 1.
  board.add_scalars(2, {"loss": 3.0})
  board.flush()
  found = scalars_of(tmp_path / "tensorboard")
  assert found == [(1, "loss", 0.5), (2, "loss", 1.0), (2, "loss", 3.0)]
  starts = [
    event.step
    for event in events(tmp_path / "tensorboard")
    if event.session_log.status == event_pb2.SessionLog.START
  ]
  assert starts == [0, 2]
  board.close()


def test_a_store_has_the_rows_the_events_and_the_pictures(tmp_path):
  picture = np.zeros((4, 4, 3), np.uint8)
  with fake_store.at(tmp_path):
    workdir = epath.Path("gs://bucket/run")
    workdir.mkdir(parents=True)
    writer = metrics.Writer(workdir, 0, resumed=False)
    writer.write(1, {"loss": 1.0})
    writer.write_picture(1, "reconstructions", picture)
    writer.flush()
    writer.flush()  # Nothing new: no further file.
    writer.write(2, {"loss": 0.5})
    writer.close()
    assert [r["step"] for r in metrics.read(workdir)] == [1, 2]
    writer = metrics.Writer(workdir, 1)
    writer.write(2, {"loss": 0.25})
    writer.close()
    rows = metrics.read(workdir)
    assert [(r["step"], r["loss"]) for r in rows] == [(1, 1.0), (2, 0.25)]
  run = tmp_path / "bucket" / "run"
  assert (run / "pictures" / "reconstructions-1.png").exists()
  found = [x for x in scalars_of(run / "tensorboard") if x[1] == "loss"]
  assert found == [(1, "loss", 1.0), (2, "loss", 0.5), (2, "loss", 0.25)]
  # One of the first flush, one of the second's rows, one of the second run.
  assert len(list((run / "tensorboard").iterdir())) == 3


def test_a_new_run_has_step_0_once_after_any_number_of_early_kills(tmp_path):
  for _ in range(3):
    writer = metrics.Writer(epath.Path(tmp_path), 0, resumed=False)
    writer.write(0, {"eval/knn_20": 0.1})
    writer.close()  # And killed before the first checkpoint.
  assert [r["step"] for r in metrics.read(tmp_path)] == [0]


DAMAGE = [b"\xff\xfe\n", b"[" * 100_000 + b"\n", b"3\n", b'{"a": 1}\n', b"}\n"]


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_rows_are_told_of_and_the_file_is_kept(tmp_path, damage):
  good = b'{"step": 1}\n'
  (tmp_path / "metrics.jsonl").write_bytes(good + damage + b'{"step": 2}\n')
  notes = []
  metrics.Writer(epath.Path(tmp_path), 2, note=notes.append).close()
  assert "1 of 3 rows are not metrics, the first in line 2" in notes[0]
  kept = (tmp_path / "metrics.damaged.jsonl").read_bytes()
  assert kept == good + damage + b'{"step": 2}\n'
  assert [r["step"] for r in metrics.read(tmp_path)] == [1, 2]


def test_metrics_that_are_a_folder_are_one_clear_error(tmp_path):
  (tmp_path / "metrics.jsonl").mkdir()
  with pytest.raises(StorageError, match="cannot be read: Is a directory"):
    metrics.Writer(epath.Path(tmp_path), 0)


FULL = epath.Path("/dev/full")  # Every write to it fails: no space left.


@pytest.mark.skipif(not FULL.exists(), reason="no /dev/full here")
@pytest.mark.parametrize("part", ["_file", "board"])
def test_a_full_disk_reaches_the_caller(tmp_path, part):
  writer = metrics.Writer(epath.Path(tmp_path), 0)
  records = writer._boards[0]._file._py_recordio_writer
  held = [writer._file, records._writer]
  if part == "_file":
    held.append(open(FULL, "w", buffering=1))
    writer._file = held[-1]
  else:
    held.append(open(FULL, "wb"))
    records._writer = held[-1]
  with pytest.raises(StorageError, match="No space left on device"):
    for step in range(1000):  # More than any queue or buffer takes.
      writer.write(step, {"loss": 1.0})
      writer.flush()
  with pytest.raises(StorageError, match="No space left on device"):
    writer.close()  # It does not hang, nor hide the error.
  for file in held:
    with contextlib.suppress(OSError):
      file.close()


def test_a_collapse_is_said_in_words_and_once(writer):
  stream = io.StringIO()
  one = log(writer, stream, every=1)
  for step, std in enumerate([0.5, 0.001, 0.0, 0.5, 0.001], start=1):
    one.add(step, {**scalars(), "feature_std": jnp.float32(std)})
  one.flush()
  lines = [x for x in stream.getvalue().splitlines() if "collapse" in x]
  assert [line[:22] for line in lines] == [
    "collapse: at step 2 ev",
    "collapse: at step 5 ev",
  ]
