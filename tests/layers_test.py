"""Who imports whom: no circle, and what the docstrings say about it is true.

Imports inside functions count: a circle that is put off is still a circle.
"""

import ast
import graphlib
import subprocess
import sys

import pytest

from tests import tiny


def _modules():
  """File by module name."""
  found = {}
  for file in sorted((tiny.ROOT / "sslx").rglob("*.py")):
    parts = file.relative_to(tiny.ROOT).with_suffix("").parts
    found[".".join(parts).removesuffix(".__init__")] = file
  return found


MODULES = _modules()


def _imported(file):
  """Names of the modules that a file imports, anywhere in it."""
  for node in ast.walk(ast.parse(file.read_text())):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      names = [f"{node.module}.{alias.name}" for alias in node.names]
      yield from (x if x in MODULES else node.module for x in names)
      if not node.module.startswith("sslx"):
        yield from names


IMPORTS = {module: set(_imported(file)) for module, file in MODULES.items()}


def _is_in(module, package):
  return f"{module}.".startswith(f"{package}.")


def test_no_circle():
  graph = {}
  for module, imported in IMPORTS.items():
    graph[module] = {name for name in imported if name in MODULES}
    # To import `a.b` runs `a` too, unless that is what runs already.
    for name in list(graph[module]):
      package = name.rpartition(".")[0]
      if package != "sslx" and package and not _is_in(module, package):
        graph[module].add(package)
  assert len(graph) > 100
  list(graphlib.TopologicalSorter(graph).static_order())


def importing(package):
  """The modules that import a package, or something in it."""
  return {
    module
    for module, imported in IMPORTS.items()
    if any(_is_in(name, package) for name in imported)
  }


@pytest.mark.parametrize(
  ("package", "allowed"),
  [
    ("flax.linen", ["sslx.models"]),
    ("orbax", ["sslx.checkpoint"]),
    ("grain", ["sslx.data.pipeline"]),
    (
      "jax.sharding.NamedSharding",
      ["sslx.parallel", "sslx.axis", "sslx.weights.of_run"],
    ),
    ("tensorflow", ["sslx.data.builders", "sslx.benchmark.tf_data"]),
    ("tensorflow_datasets", ["sslx.data", "sslx.prepare"]),
    ("tensorboardX", ["sslx.boards.tensorboard"]),
    ("wandb", ["sslx.boards.wandb"]),
    ("mlflow", ["sslx.boards.mlflow"]),
    ("aim", ["sslx.boards.aim"]),
    ("torch", ["sslx.benchmark"]),
    ("sslx.report", ["sslx.report"]),
    # A paper's file is its networks and its loss.
    ("sslx.parallel", None),
    ("sslx.step", None),
  ],
)
def test_who_alone_knows_of(package, allowed):
  users = importing(package)
  assert users
  if allowed is None:
    low = ("config", "data", "models", "methods", "losses", "optim", "axis")
    for name in low:
      assert not any(_is_in(user, f"sslx.{name}") for user in users), users
  else:
    assert all(any(_is_in(x, name) for name in allowed) for x in users), users
    assert all(any(_is_in(x, name) for x in users) for name in allowed)


@pytest.mark.parametrize(
  ("package", "below"),
  [
    ("sslx.config", ["sslx.errors"]),
    ("sslx.models", ["sslx.axis", "sslx.config", "sslx.losses"]),
    ("sslx.data", ["sslx.axis", "sslx.config", "sslx.errors", "sslx.storage",
                   "sslx.progress"]),
    ("sslx.launch", ["sslx.errors"]),
  ],
)  # fmt: skip
def test_a_low_layer_imports_nothing_above_it(package, below):
  for module, imported in IMPORTS.items():
    if not _is_in(module, package) or module == "sslx.config.__main__":
      continue  # A command is above all.
    for name in imported:
      if _is_in(name, "sslx") and name != "sslx":
        allowed = [package, *below]
        assert any(_is_in(name, x) for x in allowed), (module, name)


def test_launchers_need_the_standard_library_alone():
  starters = set()
  for module in MODULES:
    if _is_in(module, "sslx.launch"):
      for name in IMPORTS[module]:
        top = name.partition(".")[0]
        assert top in ("sslx", *sys.stdlib_module_names), (module, name)
        starters |= {module} if top == "subprocess" else set()
  assert starters == {"sslx.launch.commands"}


def test_the_language_of_configs_is_quick_to_import():
  """A config file imports it, and so do commands that build nothing."""
  code = "import sys, sslx.config.__main__; print(*sys.modules)"
  done = subprocess.run(
    [sys.executable, "-c", code],
    cwd=tiny.ROOT, check=True, capture_output=True, text=True,
  )  # fmt: skip
  loaded = {name.partition(".")[0] for name in done.stdout.split()}
  assert "ml_collections" in loaded
  assert not loaded & {"jax", "flax", "optax", "orbax", "grain", "tensorflow"}
