"""Evaluates the network of a run by a protocol with a name and a version.

  python -m sslx.evaluate --workdir=W --protocol=knn-dino
  python -m sslx.evaluate --workdir=W --protocol=linear-mae --data=cifar10
  python -m sslx.evaluate --workdir=W --protocol=knn-dino --untrained

The result goes to W/evaluations and to the card of the run. A protocol that
trains can be stopped and continued as any run; --config.a.b=value changes it,
and the card then names the change. See README.md beside this file.
"""

from __future__ import annotations

import re

import jax
from absl import flags
from etils import epath

from sslx import card, command, metrics, parallel, storage, train
from sslx import config as config_lib
from sslx.config import ConfigError
from sslx.config.errors import nearest
from sslx.data import sources
from sslx.data.sources import Source
from sslx.evaluate import frozen, trained
from sslx.job import Job
from sslx.weights.run import Run, open_run
from sslx.workdir import MAY_CHANGE

_PROTOCOL = flags.DEFINE_string(
  "protocol", None, "Name of the protocol.", required=True
)
_DATA = flags.DEFINE_string(
  "data",
  None,
  "A folder of images, or the name of a set; the run's own by default.",
)
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Where the set is.")
_TRAIN = flags.DEFINE_string(
  "train", None, "Split to learn from; see config.data.train."
)
_TEST = flags.DEFINE_string(
  "test", None, "Split to test; see config.data.test."
)
_STEP = flags.DEFINE_integer(
  "step", None, "Step of the checkpoint; the newest by default."
)
_WHAT = flags.DEFINE_enum(
  "what",
  None,
  ("student", "teacher"),
  "Which network; by default the one that the paper evaluates.",
)
_UNTRAINED = flags.DEFINE_boolean(
  "untrained", False, "Evaluate the network before its first step, to compare."
)
_BATCH_SIZE = flags.DEFINE_integer(
  "batch_size", 512, "Images encoded at once.", lower_bound=1
)


def main(overrides: list[tuple[str, str]]) -> None:
  """Evaluates as the flags say."""
  with command.job() as job:
    known = [*frozen.PROTOCOLS, *trained.PROTOCOLS]
    name = _PROTOCOL.value
    if name not in known:
      raise ConfigError(
        f"--protocol={name}: there is no such protocol; there are"
        f" {', '.join(known)}.{nearest(name, known)}"
      )
    if name in frozen.PROTOCOLS and overrides:
      raise ConfigError(
        f"--config.{overrides[0][0]}: this protocol has no config; only those"
        " that train have one. Leave the flag out."
      )
    workdir = storage.path(command.WORKDIR.value, "--workdir")
    run = open_run(
      str(workdir),
      _STEP.value,
      _WHAT.value,
      untrained=_UNTRAINED.value,
      read=name in frozen.PROTOCOLS,
    )
    source = sources.named(
      run.data.records, _DATA.value, _DATA_DIR.value, _TRAIN.value, _TEST.value
    )
    if name in frozen.PROTOCOLS:
      protocol = frozen.PROTOCOLS[name]
      job.at("evaluating", slow=True, finish=lambda: None)
      found = _of_features(run, protocol, source)
    else:
      protocol = trained.PROTOCOLS[name]
      source = trained.source_of(protocol, source)
      found = _by_training(run, workdir, name, source, overrides, job)
    if parallel.is_main_process():
      result = {
        "protocol": name,
        "version": protocol.version,
        "changed": _changes(overrides),
        "data": _data(source),
        "network": run.network,
        "step": run.step,
        "config": config_lib.fingerprint(run.config),
        **found,
        **card.circumstances(jax.devices()),
      }
      folder = result.pop("folder", _folder(run, name, source))
      card.add(workdir, folder, result)
      shown = "  ".join(f"{k} {x:.4g}" for k, x in result["results"].items())
      print(f"{name} v{result['version']} on {result['data']}: {shown}")


def _of_features(
  run: Run, protocol: frozen.Frozen, source: Source
) -> card.Card:
  """Evaluates by a protocol over frozen features; returns its results."""
  train_set = sources.load(source, "train")
  test_set = sources.load(source, "test", train_set.classes)
  results = frozen.evaluate(
    run, protocol, train_set, test_set, batch_size=_BATCH_SIZE.value
  )
  return {"results": results}


def _by_training(
  run: Run,
  workdir: epath.Path,
  name: str,
  source: Source,
  overrides: list[tuple[str, str]],
  job: Job,
) -> card.Card:
  """Evaluates by a protocol that trains.

  Returns:
    Its results and config, in the main process; nothing in the others, which
    may not see the workdir.
  """
  config = trained.config_of(trained.PROTOCOLS[name], run, source, overrides)
  found = config_lib.fingerprint(config)
  folder = workdir / card.EVALUATIONS / _folder(run, name, source)
  if _changes(overrides):
    folder = folder.with_name(f"{folder.name}_{found[:6]}")
  train.run(config, folder, job=job)
  if not parallel.is_main_process():
    return {}
  last = [row for row in metrics.read(folder) if "eval/top1" in row][-1]
  results = {
    key: value
    for key, value in metrics.evaluation(last).items()
    if key.startswith("top")
  }
  return {"results": results, "protocol_config": found, "folder": folder.name}


def _changes(overrides: list[tuple[str, str]]) -> list[str]:
  """The overrides that may change a result."""
  return [
    f"{key}={text}"
    for key, text in overrides
    if not re.fullmatch(MAY_CHANGE, key)
  ]


def _folder(run: Run, name: str, source: Source) -> str:
  """Returns the name of an evaluation: protocol, data, network, step."""
  data = _data(source)
  if source.name == "folder":
    data = data.replace(str(source.data_dir), epath.Path(source.data_dir).name)
  where = "untrained" if run.network == "untrained" else str(run.step)
  if run.network == "teacher":
    where = f"teacher-{where}"
  data = re.sub(r"[^\w.]+", "-", data).strip("-")
  return f"{name}_{data}_{where}"


def _data(source: Source) -> str:
  """Names the images that were learned from and tested on."""
  name = source.name if source.name != "folder" else str(source.data_dir)
  splits = [x for x in (source.train, source.test) if x is not None]
  return f"{name} ({', '.join(splits)})" if splits else name


if __name__ == "__main__":
  command.run(main)
