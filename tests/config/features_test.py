"""The table of features in the docs: each row is a test that exists."""

import ast
import re

from tests import tiny

TABLE = tiny.ROOT / "sslx" / "config" / "README.md"


def rows():
  lines = TABLE.read_text().partition("## Feature by feature")[2].splitlines()
  cells = [re.split(r"(?<!\\)\|", x)[1:-1] for x in lines if x.startswith("|")]
  return cells[2:]  # Below the head.


def test_each_row_is_a_test_that_exists():
  assert len(rows()) > 40
  for feature, spelling, test in rows():
    assert feature.strip() and spelling.strip()
    file, name = re.fullmatch(r" `([\w/]+)::(test_\w+)` ", test).groups()
    folder = tiny.ROOT if "/" in file else tiny.ROOT / "tests" / "config"
    tree = ast.parse((folder / f"{file}.py").read_text())
    names = {x.name for x in tree.body if isinstance(x, ast.FunctionDef)}
    assert name in names, test
