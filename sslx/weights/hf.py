"""Tensor names and `config.json` for folders of Hugging Face transformers.

The names are those of version 4, which version 5 also writes and reads.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from sslx.config import ConfigError
from sslx.models.resnet import LAYOUTS, ResNet
from sslx.weights import names
from sslx.weights.foreign import Rules, renamed
from sslx.weights.run import Run
from sslx.weights.state import fixed_positions, preprocessing

MODEL_TYPES = ("vit", "vit_mae", "dinov2")
_RESAMPLE = {"bilinear": 2, "bicubic": 3}  # Pillow's numbers

_EMBEDDINGS: Rules = (
  (r"^(cls_token|mask_token)$", r"embeddings.\1"),
  (r"^pos_embed$", "embeddings.position_embeddings"),
  (r"^patch_embed\.proj\.", "embeddings.patch_embeddings.projection."),
  (r"^norm\.", "layernorm."),
  (r"^blocks\.", "encoder.layer."),
  (r"\.attn\.(query|key|value)\.", r".attention.attention.\1."),
  (r"\.attn\.proj\.", ".attention.output.dense."),
)
_VIT: Rules = (
  *_EMBEDDINGS,
  (r"\.norm1\.", ".layernorm_before."),
  (r"\.norm2\.", ".layernorm_after."),
  (r"\.mlp\.fc1\.", ".intermediate.dense."),
  (r"\.mlp\.fc2\.", ".output.dense."),
)
_DINOV2: Rules = (
  *_EMBEDDINGS,
  (r"\.ls(\d)\.gamma$", r".layer_scale\1.lambda1"),
)
_RESNET: Rules = (
  (r"^conv1\.", "embedder.embedder.convolution."),
  (r"^bn1\.", "embedder.embedder.normalization."),
  (r"^layer(\d)\.", lambda m: f"encoder.stages.{int(m[1]) - 1}.layers."),
  (r"downsample\.0\.", "shortcut.convolution."),
  (r"downsample\.1\.", "shortcut.normalization."),
  (r"\.conv(\d)\.", lambda m: f".layer.{int(m[1]) - 1}.convolution."),
  (r"\.bn(\d)\.", lambda m: f".layer.{int(m[1]) - 1}.normalization."),
)


def convert(
  run: Run, state: dict[str, np.ndarray], model_type: str | None
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
  """Converts a backbone to transformers' tensors and `config.json`.

  Args:
    run: the run whose backbone is exported.
    state: tensors of the backbone, see `state.torch_state`.
    model_type: one of MODEL_TYPES. The default is "dinov2" for a ViT with layer
      scale and "vit" for others. A ResNet takes none, and becomes a "resnet".

  Raises:
    ConfigError: transformers has no such network.
  """
  backbone = run.backbone
  if isinstance(backbone, ResNet):
    if model_type:
      raise ConfigError(
        f"--model_type={model_type}: {run.workdir} has a ResNet; leave it out."
      )
    return _resnet(backbone, state)
  scaled = backbone.layer_scale is not None
  model_type = model_type or ("dinov2" if scaled else "vit")
  if backbone.registers or backbone.mlp != "gelu":
    raise ConfigError(
      f"transformers' {model_type} has no registers and the 'gelu' MLP; this"
      f" network has registers={backbone.registers} and mlp={backbone.mlp!r}."
      " Use --to=timm."
    )
  if not backbone.class_token:
    raise ConfigError(
      f"transformers' {model_type} has a class token, and this network has"
      " none; use --to=timm."
    )
  if backbone.pool_norm:
    raise ConfigError(
      f"transformers' {model_type} has its last LayerNorm before the pooling;"
      " this network has pool_norm=True. Use --to=timm."
    )
  if scaled and model_type != "dinov2":
    raise ConfigError(
      f"transformers' {model_type} has no layer scale; use --model_type=dinov2."
    )
  return _vit(run, state, model_type)


def _vit(
  run: Run, state: dict[str, np.ndarray], model_type: str
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
  backbone = run.backbone
  width, depth, heads = backbone.sizes
  hidden = state["blocks.0.mlp.fc1.bias"].shape[0]
  config = {
    "model_type": model_type,
    "hidden_size": width,
    "num_hidden_layers": depth,
    "num_attention_heads": heads,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-6,
    "image_size": backbone.image_size,
    "patch_size": backbone.patch_size,
    "num_channels": 3,
    "qkv_bias": True,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "dtype": "float32",
  }
  split = _split(state)
  if model_type == "dinov2":
    if hidden % width:
      raise ConfigError(
        f"transformers' dinov2 has an MLP of a multiple of {width}, not"
        f" {hidden}; use --to=timm."
      )
    split |= {  # No layer scale is the same as a layer scale of one.
      f"blocks.{i}.ls{j}.gamma": np.ones(width, np.float32)
      for i in range(depth)
      for j in (1, 2)
      if f"blocks.{i}.ls{j}.gamma" not in split
    }
    tensors = {renamed(name, _DINOV2): x for name, x in split.items()}
    config |= {
      "architectures": ["Dinov2Model"],
      "mlp_ratio": hidden // width,
      "use_mask_token": False,
    }
    return tensors, config
  config["intermediate_size"] = hidden
  tensors = {renamed(name, _VIT): x for name, x in split.items()}
  if model_type == "vit":
    return tensors, config | {"architectures": ["ViTModel"]}
  decoder, more = _decoder(run)
  tensors = {f"vit.{name}": x for name, x in tensors.items()} | decoder
  return tensors, config | more


def _decoder(run: Run) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
  """MAE's decoder as tensors and config of ViTMAEForPreTraining."""
  decoder = getattr(run.method, "decoder", None)
  if decoder is None:
    raise ConfigError(
      f"--model_type=vit_mae: {run.workdir} is a run of"
      f" {run.config.model.method}, which has no decoder; use vit."
    )
  state = {
    names.decoder_name(path): names.to_torch(path, x)
    for path, x in names.flat(run.params["decoder"]).items()
  }
  # Rename the blocks as encoder blocks, then move them to the decoder.
  blocks = {
    name.removeprefix("decoder_"): state.pop(name)
    for name in list(state)
    if name.startswith("decoder_blocks.")
  }
  layers = {renamed(k, _VIT): x for k, x in _split(blocks).items()}
  tensors = {f"decoder.{name}": x for name, x in state.items()}
  for name, x in layers.items():
    place = name.replace("encoder.layer.", "decoder.decoder_layers.")
    tensors[place] = x
  tensors["decoder.decoder_pos_embed"] = fixed_positions(
    run.backbone.trained_grid, decoder.width, "column", True
  )
  return tensors, {
    "architectures": ["ViTMAEForPreTraining"],
    "decoder_hidden_size": decoder.width,
    "decoder_num_hidden_layers": decoder.depth,
    "decoder_num_attention_heads": decoder.heads,
    "decoder_intermediate_size": round(decoder.width * decoder.mlp_ratio),
    "mask_ratio": run.method.mask_ratio,
    "norm_pix_loss": run.method.norm_pix,
  }


def _split(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Splits each `qkv` tensor into query, key and value."""
  result = {}
  for name, x in state.items():
    if ".qkv." not in name:
      result[name] = x
      continue
    for word, part in zip(
      ("query", "key", "value"), np.split(x, 3), strict=True
    ):
      result[name.replace("qkv", word)] = part
  return result


def _resnet(
  backbone: ResNet, state: dict[str, np.ndarray]
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
  if backbone.stem != "imagenet":
    raise ConfigError(
      "transformers' ResNet has a 7x7 stem and a pool, and this network the"
      " 'cifar' stem; use --to=safetensors, whose README builds it."
    )
  blocks, bottleneck = LAYOUTS[backbone.depth]
  stem = state["conv1.weight"].shape[0]
  tensors = {renamed(name, _RESNET): x for name, x in state.items()}
  return tensors, {
    "architectures": ["ResNetModel"],
    "model_type": "resnet",
    "num_channels": 3,
    "embedding_size": stem,
    "hidden_sizes": [
      stem * 2**stage * (4 if bottleneck else 1) for stage in range(4)
    ],
    "depths": list(blocks),
    "layer_type": "bottleneck" if bottleneck else "basic",
    "hidden_act": "relu",
    "downsample_in_first_stage": False,
    "downsample_in_bottleneck": False,
    "dtype": "float32",
  }


def processor(run: Run) -> dict[str, Any]:
  """`preprocessor_config.json`: resize, centre crop, normalise."""
  how = preprocessing(run)
  return {
    "image_processor_type": "BitImageProcessor",
    "do_convert_rgb": True,
    "do_resize": True,
    "size": {"shortest_edge": how["resize"]},
    "resample": _RESAMPLE[how["interpolation"]],
    "do_center_crop": True,
    "crop_size": {"height": how["size"], "width": how["size"]},
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": how["mean"],
    "image_std": how["std"],
  }
