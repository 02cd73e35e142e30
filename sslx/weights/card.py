"""The README of an exported folder: its content, and how to load it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from sslx.models.resnet import LAYOUTS, ResNet
from sslx.models.vit import ViT
from sslx.weights.run import Run
from sslx.weights.state import timm_arguments

_LIBRARIES = {"timm": "timm", "hf": "transformers"}


def text(
  run: Run, to: str, config: Mapping[str, Any], metadata: Mapping[str, str]
) -> str:
  """The text of the README.

  Args:
    run: the run whose backbone is exported.
    to: export target, a key of `export.TARGETS`.
    config: content of the folder's `config.json`; empty if it has none.
    metadata: metadata of the weights.
  """
  library = _LIBRARIES.get(to)
  header = ["---", "tags: [self-supervised, image-feature-extraction]"]
  header += [f"library_name: {library}"] if library else []
  evaluation = json.loads(metadata["evaluation"])
  found = ", ".join(f"{k} {v:.4g}" for k, v in evaluation.items())
  lines = [
    *header,
    "---",
    f"# {metadata['recipe']}",
    "",
    f"The {run.network} backbone of a run of sslx, step {run.step}, config"
    f" {metadata['config']}.",
    f"Evaluation at that step: {found}." if found else "Not evaluated.",
    "",
    f"Images are RGB in [0, 1], {run.image_size} x {run.image_size} pixels,"
    f" less {list(run.data.mean)} over {list(run.data.std)}.",
    "",
    "```python",
    *_snippet(run, to, config),
    "```",
    "",
  ]
  return "\n".join(lines)


def _snippet(run: Run, to: str, config: Mapping[str, Any]) -> list[str]:
  """Lines that load the backbone and compute `features` of `images`.

  They run in the exported folder.
  """
  if to == "timm":
    return [
      "import timm",
      "",
      'model = timm.create_model("local-dir:.", pretrained=True).eval()',
      "features = model(images)",
    ]
  if to == "hf":
    kind = config["architectures"][0]
    lines = ["import transformers", ""]
    if kind == "ViTModel":
      load = f'{kind}.from_pretrained(".", add_pooling_layer=False)'
    elif kind == "ViTMAEForPreTraining":
      load = 'ViTMAEModel.from_pretrained(".", mask_ratio=0.0)'
    else:
      load = f'{kind}.from_pretrained(".")'
    lines += [f"model = transformers.{load}.eval()"]
    if kind == "ResNetModel":
      return [*lines, "features = model(images).pooler_output.flatten(1)"]
    return [*lines, "features = model(images).last_hidden_state[:, 0]"]
  if to == "npz":
    return [
      "import numpy as np",
      "",
      'weights = dict(np.load("weights.npz"))  # config.runtime.init_from too',
    ]
  lines = ["import safetensors.torch", "import torch", "import torchvision", ""]
  lines += ['state = safetensors.torch.load_file("model.safetensors")']
  if isinstance(run.backbone, ResNet):
    lines += _resnet(run.backbone)
  elif to == "torchvision":
    lines += _torchvision_vit(run.backbone)
  else:
    return [
      *("import safetensors.torch", "import timm", "import torch", ""),
      'state = safetensors.torch.load_file("model.safetensors")',
      *_timm_vit(run.backbone),
      "model.load_state_dict(state, strict=True)",
      "features = model.eval()(images)",
    ]
  return [
    *lines,
    "model.load_state_dict(state, strict=True)",
    "features = model.eval()(images)",
  ]


def _resnet(backbone: ResNet) -> list[str]:
  """Lines that build torchvision's ResNet and replace parts for its options."""
  lines = [f"model = torchvision.models.resnet{backbone.depth}()"]
  channels = max(1, round(64 * backbone.width))
  if channels != 64:
    blocks, bottleneck = LAYOUTS[backbone.depth]
    kind = "Bottleneck" if bottleneck else "BasicBlock"
    lines += [
      f"block, model.inplanes = torchvision.models.resnet.{kind}, {channels}",
      f"model.bn1 = torch.nn.BatchNorm2d({channels})",
      f"for stage, count in enumerate({blocks}):",
      f"  layer = model._make_layer(block, {channels} * 2**stage, count,",
      "                            stride=2 if stage else 1)",
      '  setattr(model, f"layer{stage + 1}", layer)',
    ]
  if backbone.stem == "cifar":
    lines += [
      f"model.conv1 = torch.nn.Conv2d(3, {channels}, 3, 1, 1, bias=False)",
      "model.maxpool = torch.nn.Identity()",
    ]
  elif channels != 64:
    lines += [
      f"model.conv1 = torch.nn.Conv2d(3, {channels}, 7, 2, 3, bias=False)"
    ]
  return [*lines, "model.fc = torch.nn.Identity()"]


def _torchvision_vit(backbone: ViT) -> list[str]:
  width, depth, heads = backbone.sizes
  return [
    "model = torchvision.models.VisionTransformer(",
    f"  image_size={backbone.image_size}, patch_size={backbone.patch_size},",
    f"  num_layers={depth}, num_heads={heads}, hidden_dim={width},",
    f"  mlp_dim={round(width * backbone.mlp_ratio)},",
    ")",
    "model.heads = torch.nn.Identity()",
  ]


def _timm_vit(backbone: ViT) -> list[str]:
  pooling = "avg" if backbone.features == "pooled" else "token"
  swiglu = "  mlp_layer=timm.layers.SwiGLUPacked, act_layer=torch.nn.SiLU,"
  return [
    "model = timm.models.VisionTransformer(",
    *(f"  {k}={x!r}," for k, x in timm_arguments(backbone).items()),
    *([swiglu] if backbone.mlp == "swiglu" else []),
    f'  num_classes=0, global_pool="{pooling}", fc_norm={backbone.pool_norm},',
    ")",
  ]
