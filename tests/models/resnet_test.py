"""ResNet against torchvision's numbers and a forward pass in numpy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from sslx import config, models
from sslx.axis import Axis
from sslx.models import resnet

EPS = 1e-5


def shapes_of(module, size=224):
  """Shapes and dtypes of the variables."""
  images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
  init = functools.partial(module.init, train=True)
  return jax.eval_shape(init, jax.random.key(0), images)


def random_variables(module, seed=0):
  """Arbitrary variables, so that no zero or one hides a layer."""
  rng = np.random.default_rng(seed)

  def draw(path, leaf):
    kind = path[-1].key
    if kind == "kernel":
      x = rng.normal(0, np.prod(leaf.shape[:3]) ** -0.5, leaf.shape)
    elif kind in ("scale", "var"):
      x = rng.uniform(0.5, 1.5, leaf.shape)
    else:
      x = rng.normal(0, 0.5, leaf.shape)
    return x.astype(np.float32)

  return jax.tree_util.tree_map_with_path(draw, shapes_of(module))


def stages_of(module, images, variables):
  """Outputs of the stem's convolution and of the blocks, by name."""

  def run(variables, images):
    _, new = module.apply(
      variables,
      images,
      train=True,
      mutable=["batch_stats", "intermediates"],
      capture_intermediates=True,
    )
    return new["intermediates"]

  return run(variables, images)


def torch_conv(x, kernel, stride):
  """As torch's conv2d with padding k // 2; x NHWC, kernel HWIO."""
  k = kernel.shape[0]
  pad = k // 2
  x = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
  windows = np.lib.stride_tricks.sliding_window_view(x, (k, k), axis=(1, 2))
  windows = windows[:, ::stride, ::stride]  # [b, h, w, c, k, k]
  return np.einsum("bhwcij,ijco->bhwo", windows, kernel, optimize=True)


def torch_max_pool(x):
  """As torch's max_pool2d(3, stride=2, padding=1)."""
  pad = ((0, 0), (1, 1), (1, 1), (0, 0))
  x = np.pad(x, pad, constant_values=-np.inf)
  windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(1, 2))
  return windows[:, ::2, ::2].max((-1, -2))


def numpy_forward(variables, x, *, blocks, bottleneck, stem, train):
  """The network as table 1 and torchvision's `_forward_impl` have it.

  Returns:
    The map of each stage, [b, h, w, d].
  """
  params, stats = variables["params"], variables["batch_stats"]

  def bn(x, params, stats):
    mean, var = stats["mean"], stats["var"]
    if train:
      mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
    return (x - mean) / np.sqrt(var + EPS) * params["scale"] + params["bias"]

  relu, stages = functools.partial(np.maximum, 0), []
  x = x.astype(np.float64)
  x = torch_conv(x, params["conv1"]["kernel"], 2 if stem == "imagenet" else 1)
  x = relu(bn(x, params["bn1"], stats["bn1"]))
  if stem == "imagenet":
    x = torch_max_pool(x)
  for stage, count in enumerate(blocks, start=1):
    for i in range(count):
      p, s = params[f"layer{stage}_{i}"], stats[f"layer{stage}_{i}"]
      stride = 2 if stage > 1 and i == 0 else 1
      if bottleneck:
        y = torch_conv(x, p["conv1"]["kernel"], 1)
        y = relu(bn(y, p["bn1"], s["bn1"]))
        y = torch_conv(y, p["conv2"]["kernel"], stride)
        y = relu(bn(y, p["bn2"], s["bn2"]))
        y = torch_conv(y, p["conv3"]["kernel"], 1)
        y = bn(y, p["bn3"], s["bn3"])
      else:
        y = torch_conv(x, p["conv1"]["kernel"], stride)
        y = relu(bn(y, p["bn1"], s["bn1"]))
        y = torch_conv(y, p["conv2"]["kernel"], 1)
        y = bn(y, p["bn2"], s["bn2"])
      if i == 0 and (stage > 1 or bottleneck):
        x = torch_conv(x, p["downsample_conv"]["kernel"], stride)
        x = bn(x, p["downsample_bn"], s["downsample_bn"])
      x = relu(x + y)
    stages.append(x)
  return stages


@pytest.mark.parametrize(
  "depth, blocks, bottleneck, stem, size, train",
  [
    (18, (2, 2, 2, 2), False, "imagenet", 64, True),
    (18, (2, 2, 2, 2), False, "imagenet", 45, False),  # odd: 23, 12, 6, 3, 2
    (18, (2, 2, 2, 2), False, "cifar", 13, True),
    (50, (3, 4, 6, 3), True, "cifar", 12, False),
  ],
)
def test_forward_equals_numpy(depth, blocks, bottleneck, stem, size, train):
  module = resnet.ResNet(depth=depth, width=1 / 8, stem=stem)
  variables = random_variables(module)
  x = np.random.default_rng(1).normal(size=(3, size, size, 3))
  x = x.astype(np.float32)

  @jax.jit
  def forward(variables, x):
    apply = lambda **more: module.apply(
      variables, x, train=train, every=True, mutable=["batch_stats"], **more
    )[0]
    return apply(), apply(maps=True)

  pooled, maps = forward(variables, x)
  stages = numpy_forward(
    variables, x, blocks=blocks, bottleneck=bottleneck, stem=stem, train=train
  )
  names = ("stage1", "stage2", "stage3", "final")
  assert set(pooled) == set(maps) == set(names)
  for name, want in zip(names, stages, strict=True):
    y, mean = maps[name], want.mean((1, 2))
    assert y.dtype == pooled[name].dtype == jnp.float32
    assert y.shape == want.shape and pooled[name].shape == mean.shape
    np.testing.assert_allclose(y, want, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(pooled[name], mean, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
  "depth, count",
  [(18, 11_176_512), (34, 21_284_672), (50, 23_508_032), (101, 42_500_160)],
)
def test_parameter_counts_are_torchvisions_without_fc(depth, count):
  params = shapes_of(resnet.ResNet(depth=depth))["params"]
  assert sum(p.size for p in jax.tree.leaves(params)) == count


def test_parameter_names_and_shapes_are_torchvisions():
  params = shapes_of(resnet.ResNet(depth=50))["params"]
  flat, _ = jax.tree_util.tree_flatten_with_path(params)
  shapes = {"/".join(k.key for k in path): p.shape for path, p in flat}
  block = "layer3_0/"
  assert shapes["conv1/kernel"] == (7, 7, 3, 64)
  assert shapes["bn1/scale"] == (64,)
  assert {k: v for k, v in shapes.items() if k.startswith(block)} == {
    block + "conv1/kernel": (1, 1, 512, 256),
    block + "bn1/scale": (256,),
    block + "bn1/bias": (256,),
    block + "conv2/kernel": (3, 3, 256, 256),
    block + "bn2/scale": (256,),
    block + "bn2/bias": (256,),
    block + "conv3/kernel": (1, 1, 256, 1024),
    block + "bn3/scale": (1024,),
    block + "bn3/bias": (1024,),
    block + "downsample_conv/kernel": (1, 1, 512, 1024),
    block + "downsample_bn/scale": (1024,),
    block + "downsample_bn/bias": (1024,),
  }


@pytest.mark.parametrize(
  "depth, stem, size, want",
  [
    (50, "imagenet", 224, {"conv1": 112, "layer1_0": 56, "layer4_2": 7}),
    (18, "imagenet", 96, {"conv1": 48, "layer1_0": 24, "layer4_1": 3}),
    (18, "cifar", 32, {"conv1": 32, "layer1_1": 32, "layer4_1": 4}),
  ],
)
def test_map_sizes(depth, stem, size, want):
  module = resnet.ResNet(depth=depth, stem=stem, dtype="bfloat16")
  images = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
  variables = shapes_of(module)
  seen = jax.eval_shape(functools.partial(stages_of, module), images, variables)
  for name, side in want.items():
    (out,) = seen[name]["__call__"]
    assert out.shape[1:3] == (side, side)
    assert out.dtype == jnp.bfloat16
  (features,) = seen["__call__"]
  assert features.shape == (2, 2048 if depth == 50 else 512)
  assert features.dtype == jnp.float32
  found = jax.eval_shape(
    functools.partial(module.apply, train=False, maps=True), variables, images
  )
  side = max(1, size // 32 * (1 if stem == "imagenet" else 4))
  assert found.shape == (2, side, side, features.shape[-1])
  assert found.dtype == jnp.bfloat16
  assert {v.dtype.name for v in jax.tree.leaves(variables)} == {"float32"}
  if depth == 50:  # v1.5: the 1x1 before the strided 3x3 keeps the size
    (first,) = seen["layer2_0"]["conv1"]["__call__"]
    (second,) = seen["layer2_0"]["conv2"]["__call__"]
    assert (first.shape[1], second.shape[1]) == (56, 28)


@pytest.mark.parametrize("bottleneck", [False, True])
def test_zero_init_makes_a_block_the_identity(bottleneck):
  c = 4 * (4 if bottleneck else 1)
  x = jax.random.uniform(jax.random.key(0), (2, 6, 6, c))  # as after a ReLU
  for zero_init in (True, False):
    block = resnet.Block(
      channels=4,
      bottleneck=bottleneck,
      stride=1,
      zero_init=zero_init,
      conv=functools.partial(resnet.nn.Conv, use_bias=False),
      bn=resnet.norm.BatchNorm,
    )
    init = jax.jit(block.init_with_output, static_argnums=2)
    y, _ = init(jax.random.key(1, impl="rbg"), x, True)
    assert np.array_equal(y, x) == zero_init


@functools.cache
def initial_params():
  """Of a ResNet-18, by `zero_init_residual`."""
  images = np.ones((1, 4, 4, 3), np.float32)

  @jax.jit
  def init(rng):
    modules = {
      zero: resnet.ResNet(depth=18, width=1 / 4, zero_init_residual=zero)
      for zero in (False, True)
    }
    return {
      zero: module.init(rng, images, train=True)["params"]
      for zero, module in modules.items()
    }

  return init(jax.random.key(0, impl="rbg"))  # compiles faster than threefry


@pytest.mark.parametrize("zero_init_residual", [True, False])
def test_zero_init_residual_is_the_last_norm_of_each_block(zero_init_residual):
  params = initial_params()[zero_init_residual]
  for name in ("layer1_0", "layer1_1", "layer2_0", "layer4_1"):
    assert np.all(params[name]["bn1"]["scale"] == 1)
    assert np.all(params[name]["bn2"]["scale"] == 1 - zero_init_residual)
  assert np.all(params["bn1"]["scale"] == 1)
  assert np.all(params["layer2_0"]["downsample_bn"]["scale"] == 1)


def test_convolutions_start_kaiming_normal():
  flat, _ = jax.tree_util.tree_flatten_with_path(initial_params()[True])
  kernels = [np.asarray(p) for path, p in flat if path[-1].key == "kernel"]
  assert len(kernels) == 20  # 1 + 8 * 2 + 3 downsampling
  scaled = [
    (k / np.sqrt(2 / (k.shape[0] * k.shape[1] * k.shape[3]))).ravel()
    for k in kernels
  ]
  for z in scaled:  # standard error of a standard deviation: 1 / sqrt(2 n)
    assert abs(z.std() - 1) < 5 / np.sqrt(2 * z.size)
    assert abs(z.mean()) < 5 / np.sqrt(z.size)
  # Not truncated: about 1 value in 16,000 lies beyond 4 deviations.
  assert 1e-5 < np.mean(np.abs(np.concatenate(scaled)) > 4) < 2e-4


@pytest.mark.parametrize("groups", [1, 2, 8])
def test_statistics_agree_between_devices(groups):
  # check_vma lets statistics out as replicated only if every BatchNorm of the
  # trunk has its axis.
  module = resnet.ResNet(depth=50, width=1 / 16, norm_groups=groups)
  mesh = jax.make_mesh((8,), ("data",), (jax.sharding.AxisType.Auto,))
  axis = Axis("data")

  def per_device(variables, x):
    y, new = module.apply(
      variables, x, train=True, axis=axis, mutable=["batch_stats"]
    )
    return y, new["batch_stats"]

  run = jax.shard_map(
    per_device,
    mesh=mesh,
    in_specs=(P(), P("data")),
    out_specs=(P("data"), P()),
  )
  variables = shapes_of(module)
  images = jax.ShapeDtypeStruct((16, 64, 64, 3), jnp.float32)
  y, stats = jax.eval_shape(run, variables, images)
  assert y.shape == (16, 128)
  assert jax.tree.structure(stats) == jax.tree.structure(
    variables["batch_stats"]
  )


def test_per_device_view_equals_the_global_view():
  module = resnet.ResNet(depth=18, width=1 / 16, stem="cifar", norm_groups=2)
  variables = random_variables(module)
  x = np.random.default_rng(1).normal(size=(8, 16, 16, 3)).astype(np.float32)
  mesh = jax.make_mesh(
    (2,), ("data",), (jax.sharding.AxisType.Auto,), devices=jax.devices()[:2]
  )

  def forward(variables, x, axis):
    return module.apply(
      variables, x, train=True, axis=axis, mutable=["batch_stats"]
    )

  want = jax.jit(functools.partial(forward, axis=Axis()))(variables, x)
  per_device = jax.shard_map(
    functools.partial(forward, axis=Axis("data")),
    mesh=mesh,
    in_specs=(P(), P("data")),
    out_specs=(P("data"), P()),
  )
  got = jax.jit(per_device)(variables, x)
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4),
    got,
    want,
  )


def test_norm_groups_reach_every_norm():
  module = resnet.ResNet(depth=18, norm_groups=3)
  images = jax.ShapeDtypeStruct((8, 32, 32, 3), jnp.float32)
  with pytest.raises(ValueError, match="batch of 8 does not divide into 3"):
    jax.eval_shape(
      functools.partial(module.apply, train=True, mutable=["batch_stats"]),
      shapes_of(module),
      images,
    )


@pytest.mark.parametrize(
  "field, value", [("depth", 20), ("width", 0.0), ("norm_groups", 0)]
)
def test_impossible_settings(field, value):
  with pytest.raises(ValueError, match=f"{field} is {value}"):
    resnet.ResNet(**{field: value})


def test_backbone_is_built_from_its_section():
  section = {"name": "resnet", "depth": 18, "stem": "cifar"}
  built = config.build(
    models.BACKBONE, section, "model.backbone", norm_groups=8
  )
  assert built == resnet.ResNet(depth=18, stem="cifar", norm_groups=8)
  assert section["name"] == "resnet"  # left as it was


@pytest.mark.parametrize(
  "section, message",
  [
    ({"name": "resnest"}, "model.backbone.name is 'resnest'.*'resnet'"),
    ({"depth": 18}, "model.backbone.name is missing.*'resnet'"),
    ({"name": "resnet", "dept": 18}, "model.backbone.dept.*'depth'"),
    ({"name": "resnet", "depth": 20}, "model.backbone.depth.*20"),
    ({"name": "resnet", "width": -1.0}, "model.backbone.width is -1.0"),
  ],
)
def test_backbone_explains_a_bad_section(section, message):
  with pytest.raises(config.ConfigError, match=message):
    config.build(models.BACKBONE, section, "model.backbone")


@pytest.mark.parametrize("depth", [18, 50])
def test_equals_torchvision_with_its_weights(depth):
  torch = pytest.importorskip("torch")
  torchvision = pytest.importorskip("torchvision")
  reference = getattr(torchvision.models, f"resnet{depth}")(weights=None)
  reference.fc = torch.nn.Identity()
  reference.train()
  weights = {k: v.numpy().copy() for k, v in reference.state_dict().items()}
  leaves = {
    ("params", "kernel"): "weight",
    ("params", "scale"): "weight",
    ("params", "bias"): "bias",
    ("batch_stats", "mean"): "running_mean",
    ("batch_stats", "var"): "running_var",
  }

  def torch_weight(weights, path):
    collection, *modules, leaf = (k.key for k in path)
    name = ".".join(modules).replace("downsample_conv", "downsample.0")
    name = name.replace("downsample_bn", "downsample.1").replace("_", ".")
    value = weights[f"{name}.{leaves[collection, leaf]}"]
    return value.transpose(2, 3, 1, 0) if leaf == "kernel" else value

  module = resnet.ResNet(depth=depth)
  variables = jax.tree_util.tree_map_with_path(
    lambda path, _: torch_weight(weights, path), shapes_of(module)
  )
  x = np.random.default_rng(0).normal(size=(4, 3, 97, 97)).astype(np.float32)
  with torch.no_grad():
    want = reference(torch.from_numpy(x)).numpy()
  got, new = module.apply(
    variables, x.transpose(0, 2, 3, 1), train=True, mutable=["batch_stats"]
  )
  np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-3)
  after = {k: v.numpy() for k, v in reference.state_dict().items()}
  for path, value in jax.tree_util.tree_flatten_with_path(new)[0]:
    np.testing.assert_allclose(
      value, torch_weight(after, path), rtol=1e-3, atol=1e-3
    )
