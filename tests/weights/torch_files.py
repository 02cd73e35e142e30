"""Files as torch.save writes them, made without torch."""

import collections
import io
import pickle
import struct
import typing
import zipfile

import numpy as np

_MAGIC = 0x1950A86A20F9469CFC6C  # of torch/serialization.py


class Storage:
  """What torch's pickles refer to: ('storage', type, key, place, count)."""

  def __init__(self, kind, key, numbers):
    self.kind, self.key, self.numbers = kind, key, np.asarray(numbers)


class Named:
  """A global of a module that is not there; calls become REDUCE."""

  def __init__(self, module, name):
    self.module, self.name = module, name


class Call:
  def __init__(self, function, *arguments):
    self.function, self.arguments = function, arguments

  def __reduce__(self):
    return self.function, self.arguments


class Pickler(pickle._Pickler):
  """Writes pickles as torch does, names of modules that are not here too."""

  dispatch: typing.ClassVar = dict(pickle._Pickler.dispatch)

  def persistent_id(self, obj):
    if isinstance(obj, Storage):
      kind = Named("torch", obj.kind)
      return ("storage", kind, obj.key, "cpu", len(obj.numbers))
    return None

  def save_named(self, obj):
    self.write(b"c" + f"{obj.module}\n{obj.name}\n".encode())

  def save_call(self, obj):
    self.save(obj.function)
    self.save(tuple(obj.arguments))
    self.write(pickle.REDUCE)

  dispatch[Named] = save_named
  dispatch[Call] = save_call


def pickled(obj):
  stream = io.BytesIO()
  Pickler(stream, 2).dump(obj)
  return stream.getvalue()


def tensor(storage, offset, shape, strides):
  rebuild = Named("torch._utils", "_rebuild_tensor_v2")
  hooks = collections.OrderedDict()
  return Call(rebuild, storage, offset, shape, strides, False, hooks)


def zip_file(path, obj, *storages, byteorder="little"):
  with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
    archive.writestr("archive/data.pkl", pickled(obj))
    archive.writestr("archive/byteorder", byteorder)
    for storage in storages:
      data = storage.numbers.tobytes()
      archive.writestr(f"archive/data/{storage.key}", data)
  return str(path)


def legacy_file(path, obj, *storages):
  sizes = {"protocol_version": 1001, "little_endian": True}
  parts = [_MAGIC, 1001, sizes, obj, [s.key for s in storages]]
  data = b"".join(map(pickled, parts))
  for storage in storages:
    data += struct.pack("<q", len(storage.numbers)) + storage.numbers.tobytes()
  path.write_bytes(data)
  return str(path)


_NUMBERS = Storage(
  "FloatStorage",
  "0",
  np.random.default_rng(0).uniform(0.5, 1.5, 2**20).astype(np.float32),
)


def numbers(name, shape):
  """The numbers that `save` gives a tensor of this name."""
  offset, strides = _view(name, shape)
  rows = _NUMBERS.numbers[offset:]
  return np.lib.stride_tricks.as_strided(rows, shape, [4 * s for s in strides])


def _view(name, shape):
  # All tensors are views of a million numbers, in which they overlap.
  strides = (5, 3, 2, 1)[4 - len(shape) :]
  return sum(name.encode()) % 4096, strides


def save(path, content, positions=None):
  """Writes nested dictionaries, in which a tuple is the shape of a tensor.

  Args:
    path: of the file.
    content: see above.
    positions: f32[1, n, d], what `pos_embed` is.
  """
  storages = [_NUMBERS]

  def made(value, name=""):
    if isinstance(value, dict):
      return {key: made(x, key) for key, x in value.items()}
    if not isinstance(value, tuple):
      return value
    if (
      name.endswith("pos_embed")
      and positions is not None
      and (positions.shape == value)
    ):
      storages.append(Storage("FloatStorage", "1", positions.reshape(-1)))
      strides = (positions[0].size, positions.shape[-1], 1)
      return tensor(storages[-1], 0, value, strides)
    offset, strides = _view(name, value)
    return tensor(_NUMBERS, offset, value, strides)

  return zip_file(path, made(content), *{s.key: s for s in storages}.values())
