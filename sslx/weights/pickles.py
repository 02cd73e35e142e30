"""Reads `.pth` files without torch, and without running anything in them.

A pickle is a program: whoever loads one runs it. This reader knows the few
names that a checkpoint's tensors are made of. Names of settings that are often
saved beside them, such as `argparse.Namespace`, become objects that do nothing;
any other name is refused.

Both of torch's formats are read: the zip file that torch 1.6 and later write,
and the row of pickles before that. Tensors are read from the file when they are
asked for, so what is left out, such as an optimiser's state, costs nothing.
"""

from __future__ import annotations

import collections
import functools
import math
import pickle
import zipfile
from collections.abc import Callable
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np
from etils import epath

_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
_DTYPES = {
  "DoubleStorage": np.float64,
  "FloatStorage": np.float32,
  "HalfStorage": np.float16,
  "BFloat16Storage": ml_dtypes.bfloat16,
  "LongStorage": np.int64,
  "IntStorage": np.int32,
  "ShortStorage": np.int16,
  "CharStorage": np.int8,
  "ByteStorage": np.uint8,
  "BoolStorage": np.bool_,
}
# What is saved beside weights. Nothing of it is made; see `_Inert`.
_SETTINGS = (
  "argparse",
  "easydict",
  "lightning",
  "lightning_fabric",
  "mmcv",
  "mmengine",
  "numpy",
  "omegaconf",
  "pathlib",
  "pytorch_lightning",
  "typing",
)
_INERT = {
  "_codecs": ("encode",),
  "builtins": (
    *("bool", "bytearray", "bytes", "complex", "dict", "float", "int"),
    *("list", "object", "slice", "str", "tuple"),
  ),
  "collections": ("defaultdict", "Counter"),
  "torch": (
    *("device", "Size", "float16", "bfloat16", "float32", "float64"),
    *("int8", "int16", "int32", "int64", "uint8", "bool", "strided"),
  ),
}


class Refused(Exception):
  """A file that is not read; the message is one line."""


class Tensor:
  """A tensor in a file: shape and dtype now, numbers when asked for."""

  def __init__(
    self,
    storage: _Storage,
    offset: int,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
  ):
    """Checks that all its elements are within the storage.

    Args:
      storage: that it is a view of, perhaps with others.
      offset: of the first element, in elements.
      shape: of the tensor.
      strides: in elements.
    """
    numbers = (offset, *shape, *strides)
    if len(shape) != len(strides) or not all(
      type(n) is int and n >= 0 for n in numbers
    ):
      raise Refused(f"a tensor of shape {shape} and strides {strides}")
    last = offset + sum(
      (n - 1) * s for n, s in zip(shape, strides, strict=True)
    )
    if math.prod(shape) and last >= storage.count:
      raise Refused(
        f"a tensor of shape {shape} reaches element {last} of a storage of"
        f" {storage.count}"
      )
    self._storage, self._offset, self._strides = storage, offset, strides
    self.shape, self.dtype = shape, storage.dtype

  def __array__(
    self, dtype: Any = None, copy: bool | None = None
  ) -> np.ndarray:
    """Reads it."""
    flat = self._storage.read()
    size = flat.dtype.itemsize
    view = np.lib.stride_tricks.as_strided(
      flat[self._offset :],
      self.shape,
      [s * size for s in self._strides],
      writeable=False,
    )
    return np.array(view, dtype)


class _Storage:
  """A row of numbers in a file, which several tensors may be views of."""

  def __init__(
    self, dtype: np.dtype, count: int, load: Callable[[], np.ndarray]
  ):
    self.dtype, self.count, self._load = dtype, count, load

  @functools.cached_property
  def _numbers(self) -> np.ndarray:
    return self._load()

  def read(self) -> np.ndarray:
    """[count]."""
    return self._numbers


class _Inert(dict):
  """Stands for an object that is not made: takes what it is told, runs none."""

  __hash__ = object.__hash__

  def __init__(self, *args: Any, **kwargs: Any):
    del args, kwargs

  def __setstate__(self, state: Any) -> None:
    del state

  def append(self, item: Any) -> None:
    del item

  def extend(self, items: Any) -> None:
    del items


def read(path: epath.Path) -> Any:
  """What a file holds, with a `Tensor` for each of torch's.

  Args:
    path: a file that torch.save wrote.

  Raises:
    Refused: it is damaged, not of torch, or wants more than tensors.
  """
  try:
    with path.open("rb") as file:
      if file.read(4) == b"PK\x03\x04":
        return _read_zip(path, file)
      file.seek(0)
      return _read_legacy(path, file)
  except Refused:
    raise
  except Exception as error:  # Rubbish makes a pickle raise anything.
    first = (str(error).splitlines() or [""])[0]
    raise Refused(
      f"it is damaged, or torch did not write it ({type(error).__name__}:"
      f" {first[:200]})"
    ) from error


def _read_zip(path: epath.Path, file: BinaryIO) -> Any:
  with zipfile.ZipFile(file) as archive:
    names = archive.namelist()
    (pickled,) = [name for name in names if name.endswith("/data.pkl")]
    folder = pickled.removesuffix("data.pkl")
    order = f"{folder}byteorder"
    if order in names and archive.read(order) != b"little":
      raise Refused("it was written on a machine of big-endian numbers")

    @functools.cache  # One for all tensors that are views of it.
    def storage(dtype: np.dtype, key: str, count: int) -> _Storage:
      info = archive.getinfo(f"{folder}data/{key}")
      if info.file_size != count * dtype.itemsize or info.compress_type:
        raise Refused(
          f"its storage {key} has {info.file_size} bytes instead of"
          f" {count * dtype.itemsize}"
        )
      return _Storage(
        dtype, count, functools.partial(load, info.filename, dtype)
      )

    def load(name: str, dtype: np.dtype) -> np.ndarray:
      with path.open("rb") as again, zipfile.ZipFile(again) as archive:
        return np.frombuffer(archive.read(name), dtype)

    with archive.open(pickled) as stream:
      return _Unpickler(stream, storage).load()


def _read_legacy(path: epath.Path, file: BinaryIO) -> Any:
  """Reads pickles of a version, the object and its keys; then the numbers."""
  storages: dict[str, _Storage] = {}
  places: dict[str, int] = {}

  def storage(dtype: np.dtype, key: str, count: int) -> _Storage:
    def load() -> np.ndarray:
      with path.open("rb") as again:
        again.seek(places[key])
        return np.frombuffer(again.read(count * dtype.itemsize), dtype)

    made = storages.setdefault(key, _Storage(dtype, count, load))
    if (made.dtype, made.count) != (dtype, count):
      raise Refused(f"its storage {key} is of two sizes")
    return made

  following = lambda: _Unpickler(file, storage).load()
  if following() != _MAGIC or following() != _PROTOCOL:
    raise Refused(
      "it is a pickle, but not one of torch's; save the weights with torch.save"
      " or as safetensors"
    )
  sizes = following()
  if not sizes.get("little_endian", True):
    raise Refused("it was written on a machine of big-endian numbers")
  found = following()
  for key in following():
    count = int.from_bytes(file.read(8), "little", signed=True)
    if key not in storages:  # Of an object that was not made.
      raise Refused(f"its storage {key} belongs to no tensor")
    if count != storages[key].count:
      raise Refused(
        f"its storage {key} has {count} numbers in place of"
        f" {storages[key].count}"
      )
    places[key] = file.tell()
    file.seek(count * storages[key].dtype.itemsize, 1)
  if places.keys() != storages.keys():
    raise Refused("it is cut short: not all of its tensors are there")
  end = file.tell()
  if file.seek(0, 2) < end:
    raise Refused(f"it is cut short: {file.tell()} bytes instead of {end}")
  return found


class _Unpickler(pickle.Unpickler):
  """Makes tensors, dictionaries and plain values; nothing else."""

  def __init__(
    self,
    file: BinaryIO,
    storage: Callable[[np.dtype, str, int], _Storage],
  ):
    super().__init__(file)
    self._storage = storage

  def find_class(self, module: str, name: str) -> Any:
    """What a name in the pickle stands for.

    Raises:
      Refused: it is none that weights are made of.
    """
    full = f"{module}.{name}"
    if full in _MADE:
      return _MADE[full]
    if module == "torch" and name in _DTYPES:
      return np.dtype(_DTYPES[name])
    if module.split(".")[0] in _SETTINGS or name in _INERT.get(module, ()):
      return type(name, (_Inert,), {})
    raise Refused(
      f"it wants to use {full}, which weights have no need of; nothing of it"
      " was run. Save the weights alone, with torch.save or as safetensors"
    )

  def persistent_load(self, pid: Any) -> _Storage:
    """A storage, which pickles refer to by a tuple."""
    kind, dtype, key, _, count, *view = pid
    plain = kind == "storage" and isinstance(key, str) and type(count) is int
    if not plain or not isinstance(dtype, np.dtype) or any(view):
      raise Refused(f"it has a storage of an unknown kind: {pid}")
    return self._storage(dtype, key, count)


def _tensor(
  storage: _Storage,
  offset: int,
  shape: tuple[int, ...],
  strides: tuple[int, ...],
  *_: Any,
) -> Tensor:
  """In place of torch._utils._rebuild_tensor_v2."""
  return Tensor(storage, offset, tuple(shape), tuple(strides))


def _parameter(data: Any, *_: Any) -> Any:
  """In place of torch._utils._rebuild_parameter."""
  return data


_MADE = {
  "collections.OrderedDict": collections.OrderedDict,
  "builtins.set": set,
  "builtins.frozenset": frozenset,
  "__builtin__.set": set,  # Written by Python 2.
  "torch._utils._rebuild_tensor": _tensor,
  "torch._utils._rebuild_tensor_v2": _tensor,
  "torch._utils._rebuild_parameter": _parameter,
  "torch._utils._rebuild_parameter_with_state": _parameter,
}
