"""Translates MMEngine's `paramwise_cfg`: rules by words in parameter names."""

from __future__ import annotations

from typing import Any

from sslx.migrate.foreign import Node

# Patterns of sslx's parameter names, by words in torch's parameter names.
KINDS = {
  "bias": "bias$",
  "bn": r"/bn\d/",
  "downsample.1": "/downsample_bn/",
  "ln": r"/norm\d?/",
  "cls_token": "cls_token",
  "mask_token": "mask_token",
}
_ONE_D = "(bias|scale)$"  # all of them at once
_PARTS = {
  "simclr": {"neck": "projector/"},
  "mocov2": {"neck": "projector/"},
  "swav": {"neck": "projector/", "head": "prototypes"},
  "mocov3": {"neck": "projector/", "head": "predictor/"},
  "byol": {"neck": "projector/", "head": "predictor/"},
  "simsiam": {
    "neck": "projector/",
    "head": "predictor/",
    "predictor": "predictor/",
  },
  "relative_loc": {"neck": "head/(fc1|bn1)/", "head": "head/fc2/"},
  "mae": {"neck": "decoder/"},
  "barlow_twins": {"neck": "projector/"},
}


def rules(
  node: Node, model: dict[str, Any], optimizer: str, *, fixes: bool = False
) -> dict[str, Any]:
  """The keys of `schedule.optimizer` with rules for parameters.

  Args:
    node: `paramwise_cfg`.
    model: section `model`, as translated.
    optimizer: name of the optimiser in sslx.
    fixes: whether a hook keeps the learning rate where `fix_lr` is set.
  """
  one_d, known = flat(model), _known(model)
  exclude: list[str] = []
  decay: dict[str, float] = {}
  rate: dict[str, float] = {}
  constant: list[str] = []
  custom = node.group("custom_keys")
  for word in custom:
    if word == "pos_embed":
      custom.idle(word)  # Never trained.
      continue
    if word not in known:
      custom.note(word, "no parameter of sslx answers to it")
      continue
    own = custom.group(word)
    rate[word] = own.take("lr_mult", float, 1.0)
    if own.take("fix_lr", bool, False):
      if fixes:
        constant.append(word)
      else:
        own.note("fix_lr", "it takes a SimSiamHook with fix_pred_lr=True")
    factor = own.take("decay_mult", float, 1.0)
    # In sslx's lars, `exclude` turns off both the decay and the trust ratio.
    alone = optimizer != "lars" or own.take("lars_exclude", bool, False)
    if factor == 0 and alone:
      exclude.append(word)
    else:
      decay[word] = factor
      if optimizer == "lars" and alone:
        own.note("lars_exclude", "in sslx only with decay_mult=0")
    if word not in KINDS and KINDS.keys() & set(custom):
      custom.note(word, "in sslx it does not keep out the other rules")
  if _nothing_of_flat(node):
    if optimizer == "lars":
      decay |= dict.fromkeys(one_d, 0.0)
    else:
      exclude += [word for word in one_d if word not in exclude]
  return _written(exclude, decay, rate, constant, known, one_d)


def _known(model: dict[str, Any]) -> dict[str, str]:
  """Patterns of the parameters that the model has, by word."""
  words = flat(model)
  if model["backbone"]["name"] == "vit":
    words = [*words, "cls_token"]
  if model["method"] == "mae":
    words = [*words, "mask_token"]
  parts = {"backbone": "backbone/", **_PARTS[model["method"]]}
  return {word: KINDS[word] for word in words} | parts


def flat(model: dict[str, Any]) -> list[str]:
  """Words for all one-dimensional parameters."""
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
  """Whether no one-dimensional parameter decays."""
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
  constant: list[str],
  known: dict[str, str],
  one_d: list[str],
) -> dict[str, Any]:
  """The rules in the form that sslx's recipes use."""
  whole = set(one_d) <= set(exclude)
  if whole:
    exclude = [word for word in exclude if word not in one_d]
  by_word: dict[str, dict[str, Any]] = {}
  for key, factors in (("weight_decay", decay), ("lr", rate)):
    for word, factor in factors.items():
      if factor != 1:
        by_word.setdefault(word, {})[key] = factor
  for word in constant:
    by_word.setdefault(word, {})["schedule"] = {"kind": "constant"}
  for word in exclude:
    by_word.setdefault(word, {})["exclude"] = True
  own = by_word.get(one_d[0])
  if whole and own and by_word == dict.fromkeys(one_d, own):
    return {"rules": ((_ONE_D, own),), "exclude_1d": True}
  # The first match counts, so the longest word goes first.
  words = sorted(sorted(by_word), key=len, reverse=True)
  rules = tuple((known[word], by_word[word]) for word in words)
  halves = _PARTS["relative_loc"].values()
  alike = len(rules) == len(halves) and all(x == rules[0][1] for _, x in rules)
  if alike and {pattern for pattern, _ in rules} == set(halves):
    rules = (("head/", rules[0][1]),)
  return {"rules": rules, "exclude_1d": whole}
