"""Reads files of weights of any supported format."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import safetensors
from etils import epath

from sslx.config import ConfigError
from sslx.weights import pickles

_METADATA = "metadata"  # name in an .npz; holds JSON text
_NAMES = ("model.safetensors", "weights.npz", "pytorch_model.bin")
_INDEX = "model.safetensors.index.json"
_DTYPES = {
  "F64": np.float64,
  "F32": np.float32,
  "F16": np.float16,
  "BF16": ml_dtypes.bfloat16,
  "I64": np.int64,
  "I32": np.int32,
  "I16": np.int16,
  "I8": np.int8,
  "U8": np.uint8,
  "BOOL": np.bool_,
}


class File(NamedTuple):
  """The content of a file of weights, or of a folder with one.

  Attributes:
    path: path of the file or folder, for messages.
    content: tensors by name, possibly in groups (`state_dict`, `teacher`) and
      mixed with other values. A tensor has `shape` and `dtype`, and
      `np.asarray` converts it.
    metadata: texts stored with the tensors, by sslx's export or others.
    config: content of `config.json` in a folder of timm or transformers.
  """

  path: str
  content: Mapping[str, Any]
  metadata: Mapping[str, str]
  config: Mapping[str, Any] | None = None


def read(path: str) -> File:
  """Reads a file of weights, or a folder that timm or transformers wrote.

  Args:
    path: a .safetensors, .npz or torch file (.pth, .pt, .bin, .ckpt, .pth.tar),
      or a folder that holds one. The content decides the format, not the name.

  Raises:
    ConfigError: there is no such file; or it is damaged, has another format, or
      is a pickle with more than tensors and settings.
  """
  where = epath.Path(path)
  if where.is_dir():
    return _read_folder(where)
  if not where.exists():
    raise ConfigError(
      f"{path} does not exist. Give a run's workdir, a file of weights, or a"
      " folder of timm's or transformers'."
    )
  try:
    with where.open("rb") as file:
      start = file.read(16)
    if start[:4] == b"PK\x03\x04":
      found = _npz(where) or File(path, pickles.read(where), {})
    elif start[8:9] == b"{":
      found = _safetensors(where)
    elif start[:1] == b"\x80":
      found = File(path, pickles.read(where), {})
    else:
      raise pickles.Refused(
        "it is neither safetensors nor .npz nor a file of torch.save. One of"
        " torch before 0.2 can be saved again:"
        " torch.save(torch.load(OLD), NEW)"
      )
    if not isinstance(found.content, Mapping):
      raise pickles.Refused(
        f"it holds one {type(found.content).__name__}, not tensors by name"
      )
    return found
  except pickles.Refused as error:
    raise ConfigError(f"{path} cannot be read: {error}.") from error


def _read_folder(folder: epath.Path) -> File:
  config = folder / "config.json"
  names = [name for name in _NAMES if (folder / name).exists()]
  if (folder / _INDEX).exists():
    parts = json.loads((folder / _INDEX).read_text())["weight_map"].values()
    names = sorted(set(parts))
    if any("/" in name for name in names):
      raise ConfigError(f"{folder / _INDEX} names files outside its folder.")
  elif len(names) != 1:
    raise ConfigError(
      f"{folder} is a folder with {' and '.join(names) or 'no weights'} in it;"
      f" it must be the workdir of a run, or hold one of {', '.join(_NAMES)}."
    )
  found = [read(str(folder / name)) for name in names]
  content = {key: x for part in found for key, x in part.content.items()}
  described = json.loads(config.read_text()) if config.exists() else None
  return File(str(folder), content, found[0].metadata, described)


def _safetensors(path: epath.Path) -> File:
  """Reads a whole safetensors file; the library checks it.

  The library's own NumPy reader refuses bfloat16, which NumPy lacks, so the
  arrays are made here.
  """
  data = path.read_bytes()
  try:
    tensors = safetensors.deserialize(data)
  except safetensors.SafetensorError as error:
    raise pickles.Refused(
      f"its safetensors header or length is wrong ({error})"
    ) from error
  (length,) = struct.unpack("<Q", data[:8])
  metadata = json.loads(data[8 : 8 + length]).get("__metadata__") or {}
  content = {}
  for name, tensor in tensors:
    if tensor["dtype"] not in _DTYPES:
      raise pickles.Refused(f"its tensor {name} is of {tensor['dtype']}")
    flat = np.frombuffer(tensor["data"], _DTYPES[tensor["dtype"]])
    content[name] = flat.reshape(tensor["shape"])
  return File(str(path), content, metadata)


def _npz(path: epath.Path) -> File | None:
  """Reads an .npz file; returns None if the zip file is torch's."""
  try:
    with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
      if any(name.endswith(".pkl") for name in archive.files):
        return None
      content = dict(archive)
  except Exception as error:  # zipfile, zlib and NumPy raise many types.
    raise pickles.Refused(
      f"it is damaged ({type(error).__name__}: {str(error)[:200]})"
    ) from error
  metadata = json.loads(str(content.pop(_METADATA, "{}")))
  return File(str(path), content, metadata)


def write_npz(path: epath.Path, content: Mapping, metadata: Mapping) -> None:
  """Writes an .npz file that `read` can read."""
  with path.open("wb") as file:
    np.savez(file, **content, **{_METADATA: np.array(json.dumps(metadata))})
