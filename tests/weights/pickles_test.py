"""Files of torch.save, read without torch; and what must not be run."""

import collections
import pickle
import subprocess
import sys

import numpy as np
import pytest

from sslx.config import ConfigError
from sslx.weights import files, pickles
from tests.weights.torch_files import (
  Call,
  Named,
  Pickler,
  Storage,
  legacy_file,
  tensor,
  zip_file,
)

WRITERS = {"zip": zip_file, "legacy": legacy_file}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_strides_offsets_and_shared_storages(tmp_path, write):
  numbers = np.arange(24, dtype=np.float32)
  shared = Storage("FloatStorage", "0", numbers)
  # 1.5 and -2 in bfloat16 are the upper halves of their float32.
  halves = Storage("BFloat16Storage", "1", np.array([0x3FC0, 0xC000], "<u2"))
  path = write(
    tmp_path / "w.pth",
    {
      "state_dict": collections.OrderedDict(
        whole=tensor(shared, 0, (4, 6), (6, 1)),
        turned=tensor(shared, 0, (6, 4), (1, 6)),
        column=tensor(shared, 7, (3,), (6,)),
        repeated=tensor(shared, 5, (2, 2), (0, 1)),
        scalar=tensor(shared, 23, (), ()),
        empty=tensor(shared, 0, (0, 3), (3, 1)),
        halves=tensor(halves, 0, (2,), (1,)),
      ),
      "epoch": 7,
    },
    shared,
    halves,
  )
  content = files.read(path).content
  assert content["epoch"] == 7
  found = {k: np.asarray(x) for k, x in content["state_dict"].items()}
  whole = numbers.reshape(4, 6)
  np.testing.assert_array_equal(found["whole"], whole)
  np.testing.assert_array_equal(found["turned"], whole.T)
  np.testing.assert_array_equal(found["column"], [7, 13, 19])
  np.testing.assert_array_equal(found["repeated"], [[5, 6], [5, 6]])
  assert found["scalar"].shape == () and found["scalar"] == 23
  assert found["empty"].shape == (0, 3)
  np.testing.assert_array_equal(found["halves"].astype(float), [1.5, -2.0])


def malicious(marker):
  """Would make a file when it is loaded."""
  return Call(Named("os", "system"), f"touch {marker}")


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_a_malicious_pickle_is_refused_in_one_line(tmp_path, write):
  marker = tmp_path / "was_here"
  path = write(tmp_path / "bad.pth", {"state_dict": malicious(marker)})
  with pytest.raises(ConfigError) as error:
    files.read(path)
  assert "it wants to use os.system" in str(error.value)
  assert "\n" not in str(error.value)
  assert not marker.exists()


@pytest.mark.parametrize(
  ("module", "name"),
  [
    ("builtins", "eval"),
    ("builtins", "exec"),
    ("builtins", "getattr"),
    ("builtins", "__import__"),
    ("os", "popen"),
    ("subprocess", "Popen"),
    ("torch", "load"),
    ("torch.storage", "_load_from_bytes"),
    ("collections", "namedtuple"),
    ("sslx.weights.pickles", "read"),
  ],
)
def test_names_that_weights_have_no_need_of_are_refused(tmp_path, module, name):
  path = zip_file(tmp_path / "bad.pth", {"x": Call(Named(module, name), "1")})
  with pytest.raises(ConfigError, match=f"it wants to use {module}.{name}"):
    files.read(path)


def test_settings_beside_the_weights_become_objects_that_do_nothing(tmp_path):
  shared = Storage("FloatStorage", "0", np.ones(2, np.float32))
  state = {"lr": 0.1, "call": Call(Named("builtins", "bytes"), 10**15)}

  class WithState(Call):
    pass

  def save(self, obj):
    self.save_call(obj)
    self.save(state)
    self.write(pickle.BUILD)

  Pickler.dispatch[WithState] = save
  path = zip_file(
    tmp_path / "w.pth",
    {
      "args": WithState(Named("argparse", "Namespace")),
      "number": Call(Named("numpy.core.multiarray", "scalar"), 1, b"x"),
      "model": {"a": tensor(shared, 0, (2,), (1,))},
    },
    shared,
  )
  content = files.read(path).content
  np.testing.assert_array_equal(content["model"]["a"], [1, 1])
  assert content["args"] == {} and type(content["args"]).__name__ == "Namespace"
  assert isinstance(content["number"], pickles._Inert)


@pytest.mark.parametrize(
  "view", [(0, (3,), (1,)), (1, (2,), (1,)), (0, (2,), (-1,)), (-1, (1,), (1,))]
)
def test_a_tensor_beyond_its_storage_is_refused(tmp_path, view):
  shared = Storage("FloatStorage", "0", np.ones(2, np.float32))
  path = zip_file(tmp_path / "w.pth", {"a": tensor(shared, *view)}, shared)
  with pytest.raises(ConfigError, match="a tensor of shape"):
    files.read(path)


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
@pytest.mark.parametrize("kept", [0.3, 0.7, 0.99])
def test_a_truncated_file_is_refused_in_one_line(tmp_path, write, kept):
  shared = Storage("FloatStorage", "0", np.ones(5000, np.float32))
  path = tmp_path / "w.pth"
  write(path, {"a": tensor(shared, 0, (5000,), (1,))}, shared)
  data = path.read_bytes()
  path.write_bytes(data[: int(len(data) * kept)])
  with pytest.raises(ConfigError, match=r"w\.pth cannot be read") as error:
    files.read(str(path))
  assert "\n" not in str(error.value)


def test_a_plain_pickle_is_refused(tmp_path):
  (tmp_path / "byol.pkl").write_bytes(pickle.dumps({"params": 1}))
  with pytest.raises(ConfigError, match="not one of torch's"):
    files.read(str(tmp_path / "byol.pkl"))


def test_a_big_endian_file_is_refused(tmp_path):
  path = zip_file(tmp_path / "w.pth", {"a": 1}, byteorder="big")
  with pytest.raises(ConfigError, match="big-endian"):
    files.read(path)


@pytest.mark.parametrize("legacy", [False, True])
def test_what_torch_writes(tmp_path, legacy):
  torch = pytest.importorskip("torch", reason="torch writes the file")
  base = torch.arange(24.0).reshape(4, 6)
  saved = {
    "float": base,
    "turned": base.t(),
    "part": base[1:, ::2],
    "half": base.half(),
    "brain": base.bfloat16() / 3,
    "double": base.double(),
    "long": base.long(),
    "byte": base.byte(),
    "bool": base > 3,
    "scalar": torch.tensor(3),
    "parameter": torch.nn.Parameter(base),
  }
  optimizer = torch.optim.AdamW([torch.nn.Parameter(base.clone())])
  optimizer.param_groups[0]["params"][0].grad = base
  optimizer.step()
  module = torch.nn.Linear(2, 3)
  path = tmp_path / "w.pth"
  torch.save(
    {
      "state_dict": saved,
      "module": module.state_dict(),
      "optimizer": optimizer.state_dict(),
    },
    path,
    _use_new_zipfile_serialization=not legacy,
  )
  content = files.read(str(path)).content
  for name, x in saved.items():
    found = np.asarray(content["state_dict"][name])
    assert found.shape == tuple(x.shape)
    wanted = x.detach().double().numpy()
    np.testing.assert_array_equal(found.astype(np.float64), wanted, name)
  weight = np.asarray(content["module"]["weight"])
  np.testing.assert_array_equal(weight, module.weight.detach().numpy())


def test_the_reader_imports_no_torch(tmp_path):
  path = zip_file(tmp_path / "w.pth", {"a": 1})
  code = (
    "import sys; sys.modules['torch'] = None\n"
    "from sslx.weights import files\n"
    f"print(dict(files.read({path!r}).content))"
  )
  found = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True, check=True
  )
  assert found.stdout.strip() == "{'a': 1}"
