"""Compares a training step of the backbone alone with the step in PyTorch.

A step is the forward pass of the backbone, the gradient of the mean square of
its features, and the update of AdamW, in float32, on the same images. The rest
of a training step (augmentation, heads, losses) is omitted, so the ratio
compares compilers and kernels, independently of the method.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from sslx import experiment as experiment_lib
from sslx.benchmark import measure, peers
from sslx.config import ConfigError
from sslx.models.resnet import LAYOUTS, ResNet
from sslx.models.vit import ViT
from sslx.weights.state import timm_arguments

_RATE = 1e-4


def bench_backbone(
  config: ConfigDict, steps: int, rounds: int, peers: bool
) -> None:
  """Prints images/s of the backbone's step, and its ratio to PyTorch's.

  Args:
    config: the config of a run, with all its sections.
    steps: number of steps per round.
    rounds: number of rounds; medians over them are printed.
    peers: whether to measure PyTorch, too.

  Raises:
    ConfigError: the views are patches; or `peers` is set and PyTorch is not
      installed or has no such network.
  """
  experiment = experiment_lib.build(config, jax.devices()[:1])
  step, b = experiment.step, experiment.data.batch_size
  shape = step.view_shape(step.slots[0])
  if len(shape) > 3:
    raise ConfigError(
      f"config.data.views.0 is of kind {experiment.data.views[0].kind!r}, which"
      " is several pictures; this benchmark takes views of one, such as 'crop'."
    )
  images = np.random.default_rng(0).normal(size=(b, *shape)).astype(np.float32)
  backbone = step.method.backbone.clone(dtype="float32")
  if isinstance(backbone, ViT):
    backbone = backbone.clone(attention="xla", drop_path=0.0, remat=False)
  work = {"sslx": _ours(backbone, images)}
  if peers:
    name, theirs = _theirs(backbone, images)
    work[name] = theirs
  repeated = {name: _repeat(call, steps) for name, call in work.items()}
  seconds = measure.in_turns(repeated, rounds, clock=time.perf_counter)
  print(
    f"{type(backbone).__name__}, images {'x'.join(map(str, images.shape))},"
    f" {jax.devices()[0].device_kind}; forward, backward and AdamW, images/s"
  )
  for name, times in seconds.items():
    speeds = [steps * b / t for t in times]
    ratios = [t / o for o, t in zip(seconds["sslx"], times, strict=True)]
    ours = "" if name == "sslx" else f"  ours {statistics.median(ratios):.2f} x"
    print(f"  {name:24}{measure.spread(speeds)}{ours}")


def _repeat(call: Callable[[], None], times: int) -> Callable[[int], None]:
  def repeated(_):
    for _ in range(times):
      call()

  return repeated


def _ours(backbone: ViT | ResNet, images: np.ndarray) -> Callable[[], None]:
  images = jax.device_put(images)
  init = jax.jit(lambda x: backbone.init(jax.random.key(0), x, train=True))
  rest = dict(init(images))
  params = rest.pop("params")
  optimizer = optax.adamw(_RATE)

  def loss(params):
    features, _ = backbone.apply(
      {"params": params, **rest}, images, train=True, mutable=list(rest)
    )
    return jnp.mean(features**2)

  @jax.jit(donate_argnums=(0, 1))
  def step(params, state):
    updates, state = optimizer.update(jax.grad(loss)(params), state, params)
    return optax.apply_updates(params, updates), state

  now = [(params, optimizer.init(params))]

  def call():
    now[0] = jax.block_until_ready(step(*now[0]))

  return call


def _theirs(
  backbone: ViT | ResNet, images: np.ndarray
) -> tuple[str, Callable[[], None]]:
  """The name of the peer, and a function that takes one training step."""
  if type(backbone) not in _NETWORKS:
    raise ConfigError(
      f"--peers: PyTorch has no {type(backbone).__name__}; leave it out."
    )
  package, network = _NETWORKS[type(backbone)]
  packages = "torch", package
  for needed in packages:
    if peers.version(needed) is None:
      raise ConfigError(
        f"--peers needs {' and '.join(packages)}, and {needed} is not"
        " installed: pip install 'sslx[torch]', or leave out --peers."
      )
  import torch

  torch.set_num_threads(len(measure.CORES))
  device = "cpu" if measure.on_cpu() else "cuda"
  module = network(backbone).to(device).train()
  x = torch.tensor(images.transpose(0, 3, 1, 2).copy(), device=device)
  optimizer = torch.optim.AdamW(module.parameters(), _RATE)

  def call():
    optimizer.zero_grad()
    module(x).square().mean().backward()
    optimizer.step()
    if device == "cuda":
      torch.cuda.synchronize()

  versions = (f"{name} {peers.version(name)}" for name in packages)
  return ", ".join(versions), call


def _vit(backbone: ViT):
  import torch
  from timm.layers import SwiGLUPacked
  from timm.models.vision_transformer import VisionTransformer

  mlp = {}
  if backbone.mlp == "swiglu":
    mlp = {"mlp_layer": SwiGLUPacked, "act_layer": torch.nn.SiLU}
  module = VisionTransformer(
    **timm_arguments(backbone),
    **mlp,
    num_classes=0,
    global_pool="token" if backbone.class_token else "avg",
  )
  module.patch_embed.requires_grad_(not backbone.frozen_patches)
  return module


def _resnet(backbone: ResNet):
  import torch
  from torchvision.models import resnet

  if backbone.width != 1:
    raise ConfigError(
      f"config.model.backbone.width is {backbone.width}; torchvision has only"
      " ResNets of width 1. Set that, or leave out --peers."
    )
  blocks, bottleneck = LAYOUTS[backbone.depth]
  kind = resnet.Bottleneck if bottleneck else resnet.BasicBlock
  module = resnet.ResNet(kind, blocks)
  module.fc = torch.nn.Identity()
  if backbone.stem == "cifar":
    module.conv1 = torch.nn.Conv2d(3, 64, 3, padding=1, bias=False)
    module.maxpool = torch.nn.Identity()
  return module


_NETWORKS = {ViT: ("timm", _vit), ResNet: ("torchvision", _resnet)}
