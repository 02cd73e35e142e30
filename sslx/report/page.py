"""HTML pages that need no other file and no network."""

from __future__ import annotations

import base64
import functools
import html
import importlib
import io
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from sslx.config import ConfigError
from sslx.report.tables import Table, cell

# Okabe and Ito's colours, which colour-blind people can tell apart too.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9",
            "#8c6bb1", "#b3a000")  # fmt: skip


def package(name: str, extra: str = "report") -> Any:
  """Imports a package of an optional extra.

  Raises:
    ConfigError: it is not installed.
  """
  try:
    return importlib.import_module(name)
  except ImportError as error:
    raise ConfigError(
      f"a report needs a package that is not installed ({error}). Install it:"
      f" pip install 'sslx[{extra}]'."
    ) from error


def colour(i: int) -> str:
  """Returns the colour of the i-th line or run."""
  return _COLOURS[i % len(_COLOURS)]


def label(text: str) -> str:
  """Returns text as Plotly shows it unchanged; it reads some HTML in text."""
  return html.escape(text, quote=False)


def data_uri(picture: np.ndarray | Image.Image, most: int | None = None) -> str:
  """Returns a picture as a PNG in a `data:` address.

  Args:
    picture: uint8[h, w, 3], or an image.
    most: the greatest width in pixels; a wider picture is scaled down.
  """
  if isinstance(picture, np.ndarray):
    picture = Image.fromarray(picture)
  if most is not None and picture.width > most:
    tall = max(round(picture.height * most / picture.width), 1)
    picture = picture.resize((most, tall), Image.Resampling.LANCZOS)
  png = io.BytesIO()
  picture.save(png, "PNG")
  return f"data:image/png;base64,{base64.b64encode(png.getvalue()).decode()}"


def script_json(value: Any) -> str:
  """Returns JSON that may stand inside of a script element.

  The browser ends a script at "</script>", and reads "<!--", whatever the
  script's language.
  """
  text = json.dumps(value, allow_nan=False)
  for mark in "<>&\u2028\u2029":
    text = text.replace(mark, f"\\u{ord(mark):04x}")
  return text


def render(template: str, *, charts: bool, **values: Any) -> str:
  """Renders a template of this folder; text is escaped.

  Args:
    template: name of the file.
    charts: whether the page has charts, and so needs Plotly inside.
    **values: what the template shows.

  Raises:
    ConfigError: the packages of the extra `report` are not installed.
  """
  found = _environment().get_template(template)
  plotly = package("plotly.offline").get_plotlyjs() if charts else ""
  return found.render(plotly=package("markupsafe").Markup(plotly), **values)


@functools.cache
def _environment() -> Any:
  jinja2 = package("jinja2")
  environment = jinja2.Environment(
    loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
  )
  markup = package("markupsafe").Markup
  environment.filters["script_json"] = lambda x: markup(
    script_json(x._asdict())
  )
  environment.filters["cell"] = cell
  environment.filters["is_number"] = lambda x: isinstance(x, int | float)
  return environment


def of_tables(
  title: str, tables: Sequence[Table], charts: Sequence[Any] = ()
) -> str:
  """Returns a page of `curves.Chart`s and tables."""
  return render(
    "tables.html", charts=bool(charts), title=title, tables=tables,
    shown=charts,
  )  # fmt: skip
