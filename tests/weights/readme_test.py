"""The lines of the README that load what a run learned."""

import re
import warnings

import jax
import numpy as np
import pytest

from sslx import export
from sslx.weights.run import open_run
from tests import tiny
from tests.weights import runs

SECTION = (tiny.ROOT / "README.md").read_text().split("## Use the weights")[1]
SECTION = SECTION.split("\n## ")[0]
SNIPPETS = re.findall(r"```python\n(.*?)```", SECTION, re.DOTALL)


@pytest.mark.slow
def test_its_snippets_load_the_weights(tmp_path, monkeypatch):
  for library in ("torch", "timm", "torchvision", "transformers"):
    pytest.importorskip(library, reason="the README's lines import it")
  import torch

  vit, resnet = tmp_path / "mocov3", tmp_path / "simclr"
  runs.save(vit, tiny.vit_config("mocov3"))
  runs.save(resnet, runs.resnet(50))
  monkeypatch.chdir(tmp_path)
  commands = re.findall(r"python -m sslx\.export (.*)", SECTION)
  assert len(commands) == len(SNIPPETS) == 3
  for command, snippet in zip(commands, SNIPPETS, strict=True):
    workdir = vit if "mocov3" in command else resnet
    flags = command.split()
    flags[0] = f"--workdir={workdir}"
    export.main(flags)
    run = open_run(workdir)
    size = run.image_size
    images = np.random.default_rng(0).normal(size=(2, size, size, 3))
    images = images.astype(np.float32)
    found = {"images": torch.tensor(images).permute(0, 3, 1, 2)}
    with torch.no_grad(), warnings.catch_warnings():
      warnings.simplefilter("ignore")
      exec(snippet, found)
    encode = jax.jit(run.method.encode)
    wanted = encode(run.params, run.model_state, images)["final"]
    error = np.abs(found["features"].numpy() - wanted).max()
    assert error <= 1e-4 * np.abs(wanted).max()
