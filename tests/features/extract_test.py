"""Features of whole sets, by name, in files."""

import pathlib

import jax
import numpy as np
import pytest
from PIL import Image
from pyarrow import parquet

from sslx.config import ConfigError
from sslx.data import operations, sets, shapes
from sslx.features import __main__ as command
from sslx.features import extract
from sslx.weights.run import open_run
from tests import tiny
from tests.weights import runs


@pytest.fixture(scope="module")
def resnet(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("resnet")
  config = tiny.config(model__backbone__depth=18, data__views__0__size=32)
  runs.save(workdir, config)
  return workdir


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("vit")
  runs.save(workdir, tiny.vit_config("mocov3"))
  return workdir


@pytest.fixture
def pets(tmp_path):
  """A folder of two classes, 16-px PNGs that are stored as they are."""
  rng = np.random.default_rng(0)
  pixels = {}
  for i in range(11):
    name = f"{'cat' if i % 3 else 'dog'}/{i:02}.png"
    path = tmp_path / "pets" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels[name] = rng.integers(0, 256, (16, 16, 3), np.uint8)
    Image.fromarray(pixels[name]).save(path)
  return tmp_path / "pets", pixels


def run(workdir, out, *flags):
  command.main([f"--workdir={workdir}", f"--out={out}", *flags])
  return dict(np.load(out)) if pathlib.Path(out).suffix == ".npz" else None


def test_features_labels_and_names_of_a_folder(vit, pets, tmp_path, capsys):
  folder, pixels = pets
  (folder / "dog" / "bad.png").write_bytes(b"not an image")
  found = run(vit, tmp_path / "f.npz", f"--data={folder}", "--batch_size=4",
              "--features=final,pooled,blocks_0,blocks_1")  # fmt: skip
  names = sorted(pixels)
  assert found["names"].tolist() == names
  assert found["labels"].tolist() == [name[0] == "d" for name in names]
  network = open_run(vit)
  images = operations.normalize(
    np.stack([pixels[name] for name in names]),
    network.data.mean,
    network.data.std,
  )
  wanted = jax.jit(network.method.encode)(
    network.params, network.model_state, images
  )
  np.testing.assert_allclose(found["final"], wanted["cls"], atol=1e-4)
  np.testing.assert_allclose(found["pooled"], wanted["pooled"], atol=1e-4)
  # The last norm of the last block is the network's output.
  last = found["blocks_1"]
  norm = network.params["backbone"]["norm"]
  centred = last - last.mean(1, keepdims=True)
  centred /= np.sqrt((centred**2).mean(1, keepdims=True) + 1e-6)
  normed = centred * norm["scale"] + norm["bias"]
  np.testing.assert_allclose(normed, wanted["cls"], atol=1e-4)
  assert np.abs(found["blocks_0"] - last).max() > 0.01
  output = capsys.readouterr().out
  assert "11 images, features final 32, pooled 32" in output
  assert "cannot be decoded, and left out: dog/bad.png" in output


def test_stages_and_blocks_of_a_resnet_as_columns(resnet, tmp_path):
  out = tmp_path / "f.parquet"
  run(resnet, out, "--split=test", "--features=final,stage3,layer3_1,layer4_0")
  table = parquet.read_table(out)
  images, labels = shapes.generate("test")
  assert table.num_rows == len(images)
  assert table["label"].to_pylist() == labels.tolist()
  assert table["name"].to_pylist()[:2] == ["0", "1"]
  rows = lambda name: np.stack(table[name].to_numpy(zero_copy_only=False))
  # The last block of a stage is the stage.
  np.testing.assert_allclose(rows("layer3_1"), rows("stage3"), atol=1e-5)
  assert rows("final").shape == rows("layer4_0").shape
  assert np.abs(rows("final") - rows("layer4_0")).max() > 0.01
  assert table.schema.metadata[b"step"] == str(runs.STEP).encode()


def test_the_teacher_gives_others(vit, pets, tmp_path):
  data = f"--data={pets[0]}"
  student = run(vit, tmp_path / "a.npz", data)
  teacher = run(vit, tmp_path / "b.npz", data, "--what=teacher")
  assert np.abs(student["final"] - teacher["final"]).max() > 0.1


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    (["--features=stage9"], "--features has 'stage9'; this network has"),
    (["--data=nothing_of_that_name"], "nothing_of_that_name"),
    (["--split=half"], "no split 'half'"),
  ],
)
def test_what_is_not_there_is_one_error(vit, tmp_path, flags, message):
  with pytest.raises(ConfigError, match=message):
    run(vit, tmp_path / "f.npz", *flags)
  with pytest.raises(ConfigError, match="must end in .npz or .parquet"):
    run(vit, tmp_path / "f.csv")


def test_images_of_other_channels_are_one_error(vit):
  images = sets.Arrays(np.zeros((4, 16, 16, 5), np.uint8), None, None)
  with pytest.raises(ConfigError, match="channels is 3, .* have 5; it must be"):
    extract.extract(open_run(vit), images)
