"""Reports, advice and errors; with libtpu, a step compiled for a slice."""

import importlib.util
import re
import subprocess
import sys

import jax
import pytest

from sslx import config as config_lib
from sslx import experiment as experiment_lib
from sslx import settings
from sslx.aot import absent, advice, compile, hlo, table, traffic
from sslx.aot.chips import Slice
from sslx.aot.report import Report, state_bytes
from sslx.benchmark import work
from sslx.config import ConfigError
from sslx.data.pipeline import Data
from tests import tiny

CONFIGS = tiny.ROOT / "configs"


def on_cpu(config, devices=8):
  data = config_lib.build(Data, config.data, "data")
  return experiment_lib.build(
    config, jax.devices()[:devices], absent.sets(data)
  )


@pytest.mark.parametrize(
  ("name", "chips", "hosts", "links", "hops"),
  [
    ("v5e:1x1", 1, 1, 0, 0),
    ("v5e:2x4", 8, 2, 2, 1 + 3),
    ("v5e:8x16", 128, 32, 1 + 2, 7 + 8),
    ("v6e:16x16", 256, 64, 4, 8 + 8),
    ("v4:2x2x1", 4, 1, 2, 2),
    ("v5p:4x4x8", 128, 32, 6, 2 + 2 + 4),
  ],
)
def test_slices(name, chips, hosts, links, hops):
  where = Slice.named(name)
  assert (where.chips, where.hosts) == (chips, hosts)
  assert where.bandwidth == links * where.chip.link
  assert where.latency == pytest.approx(hops * 1e-6)


@pytest.mark.parametrize(
  ("name", "message"),
  [
    ("v3:2x2", "'v3' is none of v4, v5e, v5p, v6e"),
    ("v5e:2x2x2", "a slice of v5e has 2 sizes, such as v5e:4x4"),
    ("v5p:4x4", "a slice of v5p has 3 sizes, such as v5p:2x2x2"),
    ("v5e", "has 2 sizes"),
    ("v5e:0x4", "has 2 sizes"),
  ],
)
def test_slices_that_there_are_not(name, message):
  with pytest.raises(ConfigError, match=message):
    Slice.named(name)


def test_imagenet_need_not_be_there():
  config = settings.load(f"{CONFIGS}/mocov2.py:imagenet", [])
  experiment = on_cpu(config)
  assert len(experiment.train) == 1_281_167
  batch = experiment.abstract_batch
  assert batch["views"][0].shape == (256, 224, 224, 3)
  assert batch["views"][0].sharding.shard_shape((256, 1)) == (32, 1)
  with pytest.raises(NotImplementedError):
    experiment.train.read([0])


def test_cifar10_takes_no_memory():
  config = settings.load(f"{CONFIGS}/simclr.py:cifar10", [])
  experiment = on_cpu(config, 1)
  assert experiment.abstract_batch["image"].shape == (512, 32, 32, 3)
  assert experiment.train.images.base.nbytes == 1


def test_other_sets_have_to_be_there():
  config = tiny.config()
  assert absent.sets(config_lib.build(Data, config.data, "data")) is None


@pytest.mark.parametrize(
  ("message", "needed", "limit"),
  [
    (
      "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 20.50G"
      " of 15.75G hbm. Exceeded hbm capacity by 4.75G.",
      20.5,
      15.75,
    ),
    (
      "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required"
      " for HLO temporaries (17.38G) exceeds available HBM (15.75G).",
      17.38 + 1,
      15.75,
    ),
  ],
)
def test_what_xla_says_of_too_little_memory(message, needed, limit):
  error = compile._does_not_fit(message, arguments=2**30)
  assert error.needed / 2**30 == pytest.approx(needed)
  assert error.limit / 2**30 == pytest.approx(limit)


def test_another_error_is_not_one_of_memory():
  assert compile._does_not_fit("INTERNAL: RET_CHECK failure", 0) is None


def advised(config, needed, limit, devices=8):
  where = Slice.named({8: "v5e:2x4", 4: "v5e:2x2"}[devices])
  error = compile.DoesNotFit(needed * 2**30, limit * 2**30)
  experiment = on_cpu(config, devices)
  return "\n".join(advice.lines(experiment, config, where, error))


def test_advice_for_a_vit():
  config = settings.load(f"{CONFIGS}/mae.py:imagenet", [])
  text = advised(config, needed=20, limit=15.75)
  # The state is 1.25 GiB; 18.75 are of the 512 images of a chip.
  assert "rules=fsdp: about 18.9 GiB: not enough" in text
  assert "remat=True" in text
  assert "accumulate=2: about 10.6 GiB: fits" in text
  assert "--topology=v5e:4x4: about 10.6 GiB: fits" in text


def test_advice_leaves_out_what_a_method_or_model_does_not_have():
  config = settings.load(f"{CONFIGS}/simclr.py:imagenet", [])
  text = advised(config, needed=40, limit=15.75)
  assert "accumulate" not in text and "remat" not in text
  assert "--topology=v5e:4x8: about 10." in text


def test_advice_where_the_state_alone_is_too_large():
  config = settings.load(f"{CONFIGS}/mae.py:imagenet", [])
  text = advised(config, needed=3, limit=1)
  assert "topology" not in text and "accumulate" not in text


@pytest.fixture(scope="module")
def report():
  """Of a program for CPUs, as if it were one for a v5e:2x4."""
  config = tiny.vit_config("mae", runtime__parallel__rules="fsdp")
  experiment = experiment_lib.build(config)
  compiled = work.compile_step(experiment)
  memory = compiled.memory_analysis()
  program = compile.Program(
    compiled.as_text(),
    compiled.cost_analysis()["flops"],
    memory.argument_size_in_bytes,
    memory.output_size_in_bytes,
    memory.alias_size_in_bytes,
    memory.temp_size_in_bytes,
    memory.generated_code_size_in_bytes,
  )
  return Report.of(experiment, Slice.named("v5e:2x4"), program)


@pytest.mark.slow
def test_the_longest_time_bounds_the_images(report):
  assert report.bound == max(report.seconds, key=report.seconds.get)
  longest = max(report.seconds.values())
  assert report.images_per_second == pytest.approx(16 / longest)
  assert report.seconds["compute"] == report.flops / 197e12
  assert report.seconds["memory"] == report.hbm_bytes / 819e9


def test_parts_of_the_memory_add_up(report):
  lines = report.lines(None)
  start, end = 1, next(i for i, x in enumerate(lines) if "  all " in x)
  sizes = [float(re.search(r"[\d.]+$", x)[0]) for x in lines[start:end]]
  assert sum(sizes) == pytest.approx(report.program.peak / 2**30, abs=0.03)


def test_hosts_and_their_cores(report):
  report_line = report.lines(None)[-1]
  assert "each of 2 hosts" in report_line and "112 vCPUs" in report_line
  each = report.images_per_second / 2
  cores = int(re.search(r"(\d+) cores", report.lines(each / 2.5)[-1])[1])
  assert cores == 3


def test_bytes_of_the_state_are_those_of_one_device():
  whole = state_bytes(experiment_lib.build(tiny.vit_config("mocov3")))
  own = state_bytes(on_cpu(settings.load(f"{CONFIGS}/mae.py:imagenet", [])))
  # ViT-B/16 and its decoder, 111.9 million parameters; Adam keeps two of each.
  assert own["parameters"] == pytest.approx(111.9e6 * 4, rel=0.01)
  assert own["optimiser"] == pytest.approx(2 * own["parameters"], rel=0.01)
  # Of each image also its label and its number.
  assert own["batch"] == 512 * (224 * 224 * 3 + 4 + 4)
  assert whole["other state"] > whole["parameters"] / 2  # The key encoder.


def test_recipes_that_differ_in_epochs_are_one_row(monkeypatch):
  monkeypatch.chdir(tiny.ROOT)
  rows = {row.name: row for row in table._recipes("*")}
  row = rows["mae_vit-large-p16_8xb512-bf16-coslr-{400,800,1600}e_in1k"]
  assert (row.chips, row.path.exists()) == (8, True)
  assert (
    rows["mocov3_vit-small-p16-h12_16xb256-bf16-coslr-300e_in1k"].chips == 16
  )
  shown = sum(row.name.count(",") + 1 for row in rows.values())
  assert shown == len(list(table.RECIPES.glob("*.py")))


def run(*arguments):
  return subprocess.run(
    [sys.executable, "-m", "sslx.aot", *arguments],
    capture_output=True,
    text=True,
    cwd=tiny.ROOT,
    check=False,
    env=tiny.environment() | {"JAX_PLATFORMS": "cpu"},
  )


def test_a_mistyped_slice_is_one_line():
  result = run("--config=configs/mae.py:quickstart", "--topology=v9:2x2")
  assert result.returncode == 1
  assert result.stderr.startswith("error: --topology=v9:2x2: 'v9' is none of")
  assert "Traceback" not in result.stderr


TINY = [
  f"--config.model.backbone.{key}={value}"
  for key, value in {
    "width": 64, "depth": 1, "heads": 2, "patch_size": 4, "image_size": 16,
  }.items()
] + [
  "--config.model.decoder.width=32",
  "--config.model.decoder.depth=1",
  "--config.model.decoder.heads=2",
  "--config.data.batch_size=16",
  "--config.data.views.0.size=16",
  "--config.model.dtype=bfloat16",
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.skipif(
  importlib.util.find_spec("libtpu") is None,
  reason="libtpu is not installed: pip install -e '.[tpu]'",
)
@pytest.mark.parametrize("mode", ["pjit", "pmap"])
@pytest.mark.parametrize("grad_sum", ["compute", "float32"])
def test_a_step_compiled_for_a_slice(tmp_path, mode, grad_sum):
  program = tmp_path / "program.txt"
  result = run(
    "--config=configs/mae.py:quickstart",
    "--topology=v5e:2x2",
    f"--hlo={program}",
    f"--config.runtime.parallel.mode={mode}",
    f"--config.runtime.parallel.grad_sum={grad_sum}",
    *TINY,
  )
  assert result.returncode == 0, result.stderr
  assert "at most" in result.stdout and "of 16 " in result.stdout
  found = traffic.collectives(hlo.parse(program.read_text()), 4)
  sums = {"bf16": 0.0, "f32": 0.0}
  for x in found:
    if x.backward:
      sums[x.dtype] += x.payload
  if grad_sum == "float32":
    assert sums["bf16"] == 0 and sums["f32"] > 0
  else:
    assert sums["bf16"] > sums["f32"]
