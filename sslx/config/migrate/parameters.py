"""MMEngine's `paramwise_cfg`: rules for parameters by words in their names."""

from __future__ import annotations

from typing import Any

from sslx.config.migrate.foreign import Node

# Words in torch's names of parameters, and patterns of sslx's names.
KINDS = {
  "bias": "bias$",
  "bn": r"/bn\d/",
  "downsample.1": "/downsample_bn/",
  "ln": r"/norm\d?/",
  "cls_token": "cls_token",
  "mask_token": "mask_token",
}
_PARTS = {
  "simclr": {"neck": "projector/"},
  "mocov2": {"neck": "projector/"},
  "swav": {"neck": "projector/", "head": "prototypes"},
  "mocov3": {"neck": "projector/", "head": "predictor/"},
  "relative_loc": {"neck": "head/(fc1|bn1)/", "head": "head/fc2/"},
  "mae": {"neck": "decoder/"},
}


def rules(node: Node, model: dict[str, Any], optimizer: str) -> dict[str, Any]:
  """Keys `exclude` and the like of `schedule.optimizer`.

  Args:
    node: `paramwise_cfg`.
    model: section `model`, as described.
    optimizer: its name in sslx.
  """
  one_d = flat(model)
  parts = {"backbone": "backbone/", **_PARTS[model["method"]]}
  known = {k: x for k, x in KINDS.items() if k in one_d} | parts
  if model["backbone"]["name"] == "vit":
    known["cls_token"] = KINDS["cls_token"]
  if model["method"] == "mae":
    known["mask_token"] = KINDS["mask_token"]
  exclude, decay, rate = [], {}, {}
  custom = node.group("custom_keys")
  for key in custom:
    if key == "pos_embed":
      custom.idle(key)  # Never trained.
    elif key not in known:
      custom.note(key, "no parameter of sslx answers to it")
    else:
      own = custom.group(key)
      by, lr = (own.take(k, float, 1.0) for k in ("decay_mult", "lr_mult"))
      trust = optimizer == "lars"
      if trust and own.take("lars_exclude", bool, False):
        trust = False
        if by != 0:
          own.note("lars_exclude", "in sslx only with decay_mult=0")
      if by == 0 and not trust:
        exclude.append(key)
      elif by != 1:
        decay[key] = by
      if lr != 1:
        rate[key] = lr
      if key in parts and not parts.keys() >= set(custom):
        custom.note(key, "in sslx it does not keep out the other rules")
  if _nothing_of_flat(node):
    if optimizer == "lars":
      decay |= dict.fromkeys(one_d, 0.0)
    else:
      exclude += [key for key in one_d if key not in exclude]
  return _written(exclude, decay, rate, known, one_d)


def flat(model: dict[str, Any]) -> list[str]:
  """Words for all parameters of one dimension."""
  if model["backbone"]["name"] == "resnet":
    return ["bias", "bn", "downsample.1"]
  heads = [model.get(key, {}) for key in ("projector", "predictor")]
  normed = any(
    (head.get("norm") and len(head["dims"]) > 1)
    or head.get("last_norm") == "affine"
    for head in heads
  )
  return ["bias", "ln", *(["bn"] if normed else [])]


def _nothing_of_flat(node: Node) -> bool:
  """Whether no parameter of one dimension decays."""
  keys = ("flat_decay_mult", "norm_decay_mult", "bias_decay_mult")
  flat, norm, bias = (node.take(key, float, 1.0) for key in keys)
  if flat == 0 or norm == bias == 0:
    return True
  for key, value in zip(keys, (flat, norm, bias), strict=True):
    if value != 1:
      node.note(key, "sslx has the 0 of all norms and biases")
  return False


def _written(
  exclude: list[str],
  decay: dict[str, float],
  rate: dict[str, float],
  known: dict[str, str],
  one_d: list[str],
) -> dict[str, Any]:
  """The rules, written as sslx's recipes write them."""
  whole = set(one_d) <= set(exclude)
  if whole:
    # In a ViT the bias of the attention has two dimensions.
    kept = ["bias"] if "ln" in one_d else []
    exclude = kept + [key for key in exclude if key not in one_d]
  return {
    "exclude": tuple(known[key] for key in exclude),
    "exclude_1d": whole,
    "decay_multipliers": _multipliers(decay, known),
    "lr_multipliers": _multipliers(rate, known),
  }


def _multipliers(
  factors: dict[str, float], known: dict[str, str]
) -> tuple[tuple[str, float], ...]:
  # The longest word goes first, and the first match holds.
  words = sorted(sorted(factors), key=len, reverse=True)
  halves = ("head/fc2/", "head/(fc1|bn1)/")
  rules = tuple((known[word], factors[word]) for word in words)
  if [x for x, _ in rules] == [*halves] and rules[0][1] == rules[1][1]:
    return (("head/", rules[0][1]),)
  return rules
