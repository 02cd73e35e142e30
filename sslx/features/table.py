"""A table of features, labels and names, and its file formats."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
from etils import epath


@dataclasses.dataclass(frozen=True)
class Table:
  """Features of a data set; each row is an image.

  Attributes:
    features: f32[n, d] by name.
    labels: int32[n], -1 for no label.
    names: file names, or row numbers if there are no files.
    unread: names of images that could not be decoded. They have no row.
  """

  features: dict[str, np.ndarray]
  labels: np.ndarray
  names: list[str]
  unread: list[str]


def write(path: epath.Path, table: Table, metadata: dict[str, str]) -> None:
  """Writes a table in the format of the file's suffix. Atomic."""
  path.parent.mkdir(parents=True, exist_ok=True)
  unfinished = path.parent / f"{path.name}.unfinished"
  with unfinished.open("wb") as file:
    WRITERS[path.suffix](file, table, metadata)
  unfinished.rename(path)


def _write_npz(file: Any, table: Table, metadata: dict[str, str]) -> None:
  np.savez(
    file,
    **table.features,
    labels=table.labels,
    names=np.array(table.names),
    metadata=np.array(json.dumps(metadata)),
  )


def _write_parquet(file: Any, table: Table, metadata: dict[str, str]) -> None:
  import pyarrow as pa  # Comes with TFDS; takes a second.
  from pyarrow import parquet

  columns = {"name": table.names, "label": table.labels}
  for name, rows in table.features.items():
    flat = pa.array(rows.reshape(-1))
    columns[name] = pa.FixedSizeListArray.from_arrays(flat, rows.shape[1])
  made = pa.table(columns)
  parquet.write_table(made.replace_schema_metadata(metadata), file)


WRITERS = {".npz": _write_npz, ".parquet": _write_parquet}
