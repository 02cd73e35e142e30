"""Reads `.pth` files without torch, and without running any code in them.

A pickle is a program, and loading one runs it. This reader allows only the few
names that make tensors. Settings are often saved beside tensors; names of their
classes, such as `argparse.Namespace`, become objects that do nothing. Any other
name is refused.

It reads both of torch's formats: the zip file of torch 1.6 and later, and the
sequence of pickles of earlier versions. A tensor is read from the file only
when NumPy asks for it, so unused ones, such as an optimiser's state, cost
nothing.
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
# Packages whose objects are often saved beside weights; see `_Inert`.
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
  """A file was refused; the message is one line."""


class Tensor:
  """A tensor in a file; `__array__` reads its numbers."""

  def __init__(
    self,
    storage: _Storage,
    offset: int,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
  ):
    """Makes a tensor and checks that its elements are within the storage.

    Args:
      storage: the storage; several tensors may share it.
      offset: index of the first element in the storage.
      shape: shape of the tensor.
      strides: strides in elements.

    Raises:
      Refused: the shape or strides are invalid, or exceed the storage.
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
    """Reads the numbers from the file."""
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
  """A flat array in a file; several tensors may be views of it."""

  def __init__(
    self, dtype: np.dtype, count: int, load: Callable[[], np.ndarray]
  ):
    self.dtype, self.count, self._load = dtype, count, load

  @functools.cached_property
  def _numbers(self) -> np.ndarray:
    return self._load()

  def read(self) -> np.ndarray:
    """The numbers, [count]; reads the file on the first call."""
    return self._numbers


class _Inert(dict):
  """Stands for an object of settings; ignores all state and runs no code."""

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
  """The content of a file, with a `Tensor` for each tensor of torch.

  Args:
    path: a file that torch.save wrote.

  Raises:
    Refused: the file is damaged, was not written by torch, or needs names that
      are not allowed.
  """
  try:
    with path.open("rb") as file:
      if file.read(4) == b"PK\x03\x04":
        return _read_zip(path, file)
      file.seek(0)
      return _read_legacy(path, file)
  except Refused:
    raise
  except Exception as error:  # A damaged pickle may raise anything.
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

    @functools.cache  # All views of a storage share it.
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
  """Reads the format before torch 1.6.

  It is a sequence of pickles (magic number, version, system information,
  object, keys of the storages), followed by the numbers.
  """
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
    if key not in storages:  # No tensor refers to it.
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
  """An unpickler that makes only tensors, containers and plain values."""

  def __init__(
    self,
    file: BinaryIO,
    storage: Callable[[np.dtype, str, int], _Storage],
  ):
    super().__init__(file)
    self._storage = storage

  def find_class(self, module: str, name: str) -> Any:
    """The object for a name in the pickle.

    Raises:
      Refused: the name is not allowed.
    """
    full = f"{module}.{name}"
    if full in _MADE:
      return _MADE[full]
    if module == "torch" and name in _DTYPES:
      return np.dtype(_DTYPES[name])
    if module.split(".")[0] in _SETTINGS or name in _INERT.get(module, ()):
      return type(name, (_Inert,), {})
    raise Refused(
      f"it wants to use {full}, which weights do not need; none of its code was"
      " run. Save the weights alone, with torch.save or as safetensors"
    )

  def persistent_load(self, pid: Any) -> _Storage:
    """The storage for a persistent id, which is a tuple."""
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
  """Replaces torch._utils._rebuild_tensor and _rebuild_tensor_v2."""
  return Tensor(storage, offset, tuple(shape), tuple(strides))


def _parameter(data: Any, *_: Any) -> Any:
  """Replaces torch._utils._rebuild_parameter."""
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
