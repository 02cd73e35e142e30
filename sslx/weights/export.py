"""Writes a backbone in the format of another library.

  timm         a folder for `timm.create_model("local-dir:...")` and the hub
  hf           a folder for `transformers`' `from_pretrained`
  torchvision  a folder with a strict state_dict of torchvision's ResNet or ViT
  safetensors  any ResNet or ViT, by torchvision's or timm's names; the README
               builds the module
  npz          any backbone, in sslx's names and layout

Each folder has a README with the lines that load it. The metadata of the
weights says where they come from, and holds one image with its features.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import safetensors.numpy
from etils import epath

from sslx.config import ConfigError
from sslx.models.resnet import LAYOUTS, ResNet
from sslx.models.vit import ViT
from sslx.weights import card, files, hf, names
from sslx.weights.run import Run
from sslx.weights.state import (
  described,
  preprocessing,
  timm_arguments,
  torch_state,
)

_INSTEAD = "use --to=safetensors, whose README builds it"


@dataclasses.dataclass(frozen=True)
class Options:
  """The user's options.

  Attributes:
    features: a ViT's output, "cls" or "pooled"; by default that of the config.
    model_type: model type of transformers, one of `hf.MODEL_TYPES`.
  """

  features: str | None = None
  model_type: str | None = None


Written = tuple[dict[str, np.ndarray], dict[str, Any]]


def timm(run: Run, options: Options) -> Written:
  """Tensors, and timm's `config.json`."""
  state = torch_state(run)
  how, channels = preprocessing(run), run.data.channels
  if isinstance(run.backbone, ResNet):
    _plain_resnet(run.backbone, "timm's ResNet")
    name, pooling = f"resnet{run.backbone.depth}", "avg"
    width = 2048 if LAYOUTS[run.backbone.depth][1] else 512
    arguments = {"num_classes": 0, "global_pool": "avg"}
    first, pool = "conv1", [-(-how["size"] // 32)] * 2
  else:
    name, pooling, arguments = _timm_vit(run.backbone, options.features)
    width, first, pool = run.backbone.sizes[0], "patch_embed.proj", None
  config = {
    "architecture": name,
    "num_classes": 0,
    "num_features": width,
    "global_pool": pooling,
    "model_args": arguments | ({"in_chans": channels} if channels != 3 else {}),
    "pretrained_cfg": {
      "tag": f"sslx_{run.config.model.method}",
      "custom_load": False,
      "input_size": [channels, how["size"], how["size"]],
      "fixed_input_size": pool is None,
      "interpolation": how["interpolation"],
      "crop_pct": how["size"] / how["resize"],
      "crop_mode": "center",
      "mean": how["mean"],
      "std": how["std"],
      "num_classes": 0,
      "pool_size": pool,
      "first_conv": first,
      "classifier": "head" if pool is None else "fc",
    },
  }
  return state, {"config.json": config}


def _timm_vit(
  backbone: ViT, features: str | None
) -> tuple[str, str, dict[str, Any]]:
  """Architecture, pooling and arguments."""
  features = features or backbone.features
  if features == "cls+pooled":
    raise ConfigError(
      "timm has no pooling that is the class token beside the mean of the"
      " others; choose --features=cls or --features=pooled."
    )
  if features == "cls" and not backbone.class_token:
    raise ConfigError("--features=cls: this network has no class token.")
  if features == "cls" and backbone.pool_norm:
    raise ConfigError(
      "--features=cls: this network has pool_norm=True, so its class token has"
      " no last LayerNorm; use --features=pooled."
    )
  patch = 14 if backbone.variant == "huge" else 16
  pooling = {"cls": "token", "pooled": "avg"}[features]
  name = f"vit_{backbone.variant}_patch{patch}_224"
  if backbone.mlp == "swiglu":  # A class, which only an architecture can name.
    name = "vit_giant_patch14_dinov2"
  return name, pooling, {
    "num_classes": 0,
    **timm_arguments(backbone),
    "global_pool": pooling,
    # By default timm pools before the norm, which gives other features.
    "fc_norm": backbone.pool_norm,
  }  # fmt: skip


def transformers(run: Run, options: Options) -> Written:
  """Tensors, `config.json` and `preprocessor_config.json`."""
  tensors, config = hf.convert(run, torch_state(run), options.model_type)
  return tensors, {
    "config.json": config,
    "preprocessor_config.json": hf.processor(run),
  }


def torchvision(run: Run, options: Options) -> Written:
  """Tensors of torchvision's `ResNet` or `VisionTransformer`."""
  del options
  state, backbone = torch_state(run), run.backbone
  if isinstance(backbone, ResNet):
    _plain_resnet(backbone, "torchvision's ResNet")
    return state, {}
  others = backbone.layer_scale is not None or backbone.registers
  others = others or not backbone.class_token or backbone.pool_norm
  if others or backbone.mlp != "gelu":
    raise ConfigError(
      "torchvision's ViT has a class token, the 'gelu' MLP, no registers, no"
      " pool_norm and no layer scale; use --to=timm."
    )
  return {_torchvision_name(name): x for name, x in state.items()}, {}


def _torchvision_name(name: str) -> str:
  renames = {
    "cls_token": "class_token",
    "pos_embed": "encoder.pos_embedding",
    "patch_embed.proj": "conv_proj",
    "norm": "encoder.ln",
    "norm1": "ln_1",
    "norm2": "ln_2",
    "attn.qkv": "self_attention.in_proj",
    "attn.proj": "self_attention.out_proj",
    "mlp.fc1": "mlp.0",
    "mlp.fc2": "mlp.3",
  }
  if name in renames:
    return renames[name]
  above, _, leaf = name.rpartition(".")
  if not above.startswith("blocks."):
    return f"{renames[above]}.{leaf}"
  _, number, module = above.split(".", 2)
  # torchvision's joint query/key/value matrix is a parameter, not a module.
  joint = "_" if module == "attn.qkv" else "."
  block = f"encoder.layers.encoder_layer_{number}"
  return f"{block}.{renames[module]}{joint}{leaf}"


def plain(run: Run, options: Options) -> Written:
  """Tensors of any ResNet or ViT, by torchvision's or timm's names."""
  del options
  return torch_state(run), {}


def arrays(run: Run, options: Options) -> Written:
  """Arrays of any backbone, by sslx's names."""
  del options
  return names.flat(run.variables), {}


TARGETS: dict[str, Callable[[Run, Options], Written]] = {
  "timm": timm,
  "hf": transformers,
  "torchvision": torchvision,
  "safetensors": plain,
  "npz": arrays,
}


def write(run: Run, to: str, out: epath.Path, options: Options) -> list[str]:
  """Writes a folder.

  Args:
    run: the run whose backbone is exported.
    to: a key of TARGETS.
    out: the new folder.
    options: the user's options.

  Returns:
    Lines for the user that say what was written.

  Raises:
    ConfigError: `out` exists; or the target cannot express the network. The
      message names a target that can.
  """
  if out.exists():
    raise ConfigError(f"--out: {out} exists. Remove it, or give another.")
  channels = run.data.channels
  if channels != 3 and to not in ("timm", "npz"):
    raise ConfigError(
      f"--to={to}: this network takes images of config.data.channels={channels}"
      " channels, which is written for timm and npz only; use one of these."
    )
  tensors, extra = TARGETS[to](run, options)
  metadata = described(run)
  unfinished = out.parent / f"{out.name}.unfinished"
  if unfinished.exists():
    unfinished.rmtree()
  unfinished.mkdir(parents=True)
  if to == "npz":
    files.write_npz(unfinished / "weights.npz", tensors, metadata)
  else:
    tensors = {name: np.asarray(x, order="C") for name, x in tensors.items()}
    data = safetensors.numpy.save(tensors, metadata)
    (unfinished / "model.safetensors").write_bytes(data)
  for name, content in extra.items():
    (unfinished / name).write_text(json.dumps(content, indent=2) + "\n")
  text = card.text(run, to, extra.get("config.json", {}), metadata)
  (unfinished / "README.md").write_text(text)
  unfinished.rename(out)  # Atomic.
  count = sum(np.size(x) for x in tensors.values())
  lines = [
    f"{out}: {len(tensors)} tensors, {count:,} numbers, for {to}",
    f"the {run.network} of {metadata['recipe']} at step {run.step}",
  ]
  if getattr(run.backbone, "mask_token", False) and to != "npz":
    lines.append("without the mask token, which is for training alone")
  return lines


def _plain_resnet(backbone: ResNet, whose: str) -> None:
  """Raises ConfigError for a ResNet that other libraries cannot build."""
  if backbone.stem != "imagenet":
    raise ConfigError(
      f"{whose} has a 7x7 stem and a pool, and this network the 'cifar' stem;"
      f" {_INSTEAD}."
    )
  if backbone.width != 1:
    raise ConfigError(
      f"{whose} has 64 channels in its stem, and this network"
      f" {max(1, round(64 * backbone.width))}; use --to=hf, or"
      " --to=safetensors, whose README builds it."
    )
