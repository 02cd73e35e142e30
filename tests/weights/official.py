"""Names and shapes of the checkpoints that the authors of methods publish.

Written down from their code and files, apart from `sslx.weights`.
"""


def bn(name, width, affine=True):
  """A BatchNorm's."""
  found = {f"{name}.running_mean": (width,), f"{name}.running_var": (width,)}
  found[f"{name}.num_batches_tracked"] = ()
  if affine:
    found |= {f"{name}.weight": (width,), f"{name}.bias": (width,)}
  return found


def linear(name, inputs, outputs, bias=True):
  found = {f"{name}.weight": (outputs, inputs)}
  return found | ({f"{name}.bias": (outputs,)} if bias else {})


def resnet50(stem=7):
  """torchvision's, without `fc`."""
  found = {"conv1.weight": (64, 3, stem, stem)} | bn("bn1", 64)
  width_in = 64
  for stage, count in enumerate((3, 4, 6, 3)):
    width = 64 * 2**stage
    for i in range(count):
      block = f"layer{stage + 1}.{i}"
      found |= {
        f"{block}.conv1.weight": (width, width_in, 1, 1),
        f"{block}.conv2.weight": (width, width, 3, 3),
        f"{block}.conv3.weight": (4 * width, width, 1, 1),
      }
      found |= bn(f"{block}.bn1", width) | bn(f"{block}.bn2", width)
      found |= bn(f"{block}.bn3", 4 * width)
      if i == 0:
        found[f"{block}.downsample.0.weight"] = (4 * width, width_in, 1, 1)
        found |= bn(f"{block}.downsample.1", 4 * width)
      width_in = 4 * width
  return found


def vit(width=384, depth=12, patch=16, tokens=197, cls=True, scale=False):
  """timm's, without `head`."""
  found = {"pos_embed": (1, tokens, width)}
  if cls:
    found["cls_token"] = (1, 1, width)
  found |= {
    "patch_embed.proj.weight": (width, 3, patch, patch),
    "patch_embed.proj.bias": (width,),
  }
  for i in range(depth):
    block = f"blocks.{i}"
    for norm in ("norm1", "norm2"):
      found |= {f"{block}.{norm}.{x}": (width,) for x in ("weight", "bias")}
    found |= linear(f"{block}.attn.qkv", width, 3 * width)
    found |= linear(f"{block}.attn.proj", width, width)
    found |= linear(f"{block}.mlp.fc1", width, 4 * width)
    found |= linear(f"{block}.mlp.fc2", 4 * width, width)
    if scale:
      found |= {f"{block}.ls1.gamma": (width,), f"{block}.ls2.gamma": (width,)}
  return found | {"norm.weight": (width,), "norm.bias": (width,)}


def below(prefix, *groups):
  return {f"{prefix}{name}": x for group in groups for name, x in group.items()}


def training(state):
  """What a script's checkpoint has beside a `state_dict`."""
  return {
    "epoch": 200,
    "arch": "resnet50",
    "state_dict": state,
    "optimizer": {"state": {}, "param_groups": [{"lr": 0.1, "params": [0, 1]}]},
  }


def mlp(name, dims, bias, numbers, last=None):
  """Linear layers, each but the last with a BatchNorm behind it."""
  found = {}
  for i, number in enumerate(numbers):
    found |= linear(f"{name}.{number}", dims[i], dims[i + 1], bias)
    if i < len(numbers) - 1:
      found |= bn(f"{name}.{number + 1}", dims[i + 1])
  if last is not None:
    found |= bn(f"{name}.{last}", dims[-1], affine=False)
  return found


def dino_head(name, width, outputs=65536, parametrized=False):
  found = {}
  for number, (a, b) in zip(
    (0, 2, 4), ((width, 2048), (2048, 2048), (2048, 256)), strict=True
  ):
    found |= linear(f"{name}.mlp.{number}", a, b)
  old = {"weight_g": (outputs, 1), "weight_v": (outputs, 256)}
  new = {
    "parametrizations.weight.original0": (outputs, 1),
    "parametrizations.weight.original1": (outputs, 256),
  }
  return found | below(f"{name}.last_layer.", new if parametrized else old)


def mocov2():
  head = linear("fc.0", 2048, 2048) | linear("fc.2", 2048, 128)
  state = below("module.encoder_q.", resnet50(), head)
  state |= below("module.encoder_k.", resnet50(), head)
  state |= {"module.queue": (128, 65536), "module.queue_ptr": (1,)}
  return training(state)


def mocov1():
  head = linear("fc", 2048, 128)
  state = below("module.encoder_q.", resnet50(), head)
  state |= below("module.encoder_k.", resnet50(), head)
  state |= {"module.queue": (128, 65536), "module.queue_ptr": (1,)}
  return training(state)


def mocov3_resnet():
  head = mlp("fc", (2048, 4096, 256), False, (0, 3), last=4)
  predictor = mlp("module.predictor", (256, 4096, 256), False, (0, 3), last=4)
  return training(
    below("module.base_encoder.", resnet50(), head)
    | below("module.momentum_encoder.", resnet50(), head)
    | predictor
  )


def mocov3_vit():
  head = mlp("head", (384, 4096, 4096, 256), False, (0, 3, 6), last=7)
  predictor = mlp("module.predictor", (256, 4096, 256), False, (0, 3), last=4)
  return training(
    below("module.base_encoder.", vit(), head)
    | below("module.momentum_encoder.", vit(), head)
    | predictor
  )


def swav():
  head = mlp("projection_head", (2048, 2048, 128), True, (0, 3))
  prototypes = linear("prototypes", 128, 3000, bias=False)
  return below("module.", resnet50(), head, prototypes)


def mae_decoder(width, patch=16, tokens=197):
  found = {
    "mask_token": (1, 1, 512),
    "decoder_pos_embed": (1, tokens, 512),
    "decoder_norm.weight": (512,),
    "decoder_norm.bias": (512,),
  }
  found |= linear("decoder_embed", width, 512)
  found |= linear("decoder_pred", 512, 3 * patch**2)
  blocks = {
    name: x for name, x in vit(512, 8).items() if name.startswith("blocks")
  }
  return found | below("decoder_", blocks)


def mae():
  return {"model": vit(768)}


def mae_full():
  return {"model": vit(768) | mae_decoder(768), "epoch": 1, "scaler": {}}


def dino():
  return vit()


def dino_full(parametrized=False):
  head = dino_head("head", 384, parametrized=parametrized)
  network = below("backbone.", vit()) | head
  return {
    "student": below("module.", network),
    "teacher": network,
    "optimizer": {"state": {}},
    "epoch": 100,
    "dino_loss": {"center": (1, 65536)},
  }


def ibot():
  return {"state_dict": vit() | {"masked_embed": (1, 384)}}


def ibot_full():
  head = dino_head("head", 384, 8192)
  head |= {"head.last_layer2.weight_g": (8192, 1)}
  head |= {"head.last_layer2.weight_v": (8192, 256)}
  network = below("backbone.", vit(), {"masked_embed": (1, 384)}) | head
  teacher = below("backbone.", vit()) | head
  return {"student": below("module.", network), "teacher": teacher}


def dinov2():
  network = vit(patch=14, tokens=1370, scale=True)
  return network | {"mask_token": (1, 384)}


def dinov2_giant():
  """With registers and SwiGLU, but narrow."""
  state = dinov2() | {"register_tokens": (1, 4, 384)}
  for i in range(12):
    for name in ("fc1", "fc2"):
      for leaf in ("weight", "bias"):
        del state[f"blocks.{i}.mlp.{name}.{leaf}"]
    state |= linear(f"blocks.{i}.mlp.w12", 384, 2 * 1024)
    state |= linear(f"blocks.{i}.mlp.w3", 1024, 384)
  return state


def dinov2_training():
  """Four chunks of blocks, which keep their numbers."""
  state = {}
  for name, x in dinov2().items():
    if name.startswith("blocks."):
      number = int(name.split(".")[1])
      name = name.replace("blocks.", f"blocks.{number // 3}.", 1)
    state[f"backbone.{name}"] = x
  return {
    "teacher": state
    | below("dino_head.", dino_head("x", 384))
    | below("ibot_head.", dino_head("x", 384))
  }


def barlow():
  return resnet50()


def barlow_training():
  state = below("module.backbone.", resnet50())
  dims = (2048, 8192, 8192, 8192)
  state |= mlp("module.projector", dims, False, (0, 3, 6))
  return {"epoch": 3, "model": state | bn("module.bn", 8192, affine=False)}


def vicreg():
  state = below("module.backbone.", resnet50())
  dims = (2048, 8192, 8192, 8192)
  return {
    "epoch": 3,
    "model": state | mlp("module.projector", dims, True, (0, 3, 6)),
  }


def simsiam():
  head = mlp("fc", (2048, 2048, 2048, 2048), False, (0, 3, 6), last=7)
  head |= {"fc.6.bias": (2048,)}
  predictor = mlp("module.predictor", (2048, 512, 2048), True, (0, 3))
  return training(below("module.encoder.", resnet50(), head) | predictor)


def msn():
  head = linear("fc.fc1", 384, 2048) | bn("fc.bn1", 2048)
  head |= linear("fc.fc2", 2048, 2048) | bn("fc.bn2", 2048)
  head |= linear("fc.fc3", 2048, 256)
  network = below("module.", vit(), head)
  return {
    "encoder": network,
    "target_encoder": network,
    "prototypes": (1024, 256),
    "opt": {"state": {}},
    "epoch": 3,
  }


def ijepa():
  network = below("module.", vit(384, tokens=196, cls=False))
  predictor = {"module.mask_token": (1, 1, 384)}
  predictor |= linear("module.predictor_embed", 384, 384)
  return {
    "encoder": network,
    "predictor": predictor,
    "target_encoder": network,
    "epoch": 3,
    "lr": 0.1,
  }


def openmmlab_resnet():
  head = linear("neck.mlp.0", 2048, 2048)
  state = below("backbone.", resnet50()) | head
  return {"meta": {"epoch": 3}, "state_dict": state}


def openmmlab_vit():
  names = {
    "patch_embed.proj.": "patch_embed.projection.",
    "norm.": "ln1.",
    ".norm1.": ".ln1.",
    ".norm2.": ".ln2.",
    ".mlp.fc1.": ".ffn.layers.0.0.",
    ".mlp.fc2.": ".ffn.layers.1.",
    "blocks.": "layers.",
  }
  state = {}
  for name, x in vit(768).items():
    for old, new in names.items():
      if old in name and (old != "norm." or name.startswith("norm.")):
        name = name.replace(old, new)
    state[f"backbone.{name}"] = x
  return {"meta": {}, "state_dict": state | {"neck.mask_token": (1, 1, 512)}}


def solo_learn():
  """CIFAR-10: a 3x3 stem; Lightning beside it."""
  state = below("backbone.", resnet50(stem=3))
  state |= below("momentum_backbone.", resnet50(stem=3))
  state |= linear("classifier", 2048, 10)
  state |= mlp("projector", (2048, 4096, 256), True, (0, 3))
  return {
    "state_dict": state,
    "hyper_parameters": {"method": "byol"},
    "callbacks": {},
    "pytorch-lightning_version": "2.1.2",
  }


def lightly_sequential():
  """torch.nn.Sequential(*list(resnet.children())[:-1]) in a module."""
  numbers = {"conv1": 0, "bn1": 1} | {f"layer{i}": i + 3 for i in range(1, 5)}
  state = {}
  for name, x in resnet50().items():
    first, _, rest = name.partition(".")
    state[f"backbone.{numbers[first]}.{rest}"] = x
  head = linear("projection_head.layers.0", 2048, 2048, bias=False)
  return {"state_dict": state | head}


def torchvision_resnet():
  return resnet50() | linear("fc", 2048, 1000)
