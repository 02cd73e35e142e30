"""MMEngine's keys that are not part of the experiment."""

from __future__ import annotations

import re

# The top-level keys that define an experiment. Other names in a file are its
# own variables, or say how MMEngine runs: env_cfg, resume, visualizer,
# val_dataloader and so on.
PARTS = {
  *("model", "data_preprocessor", "train_dataloader", "train_cfg"),
  *("optim_wrapper", "param_scheduler", "auto_scale_lr", "sync_bn"),
  *("default_hooks", "custom_hooks", "custom_imports", "load_from"),
  "randomness",
}
# Keys that do not change the result.
_IDLE = r"""
  .*\._scope_|randomness\.(diff_rank_seed|deterministic)
  default_hooks\.(timer|param_scheduler|runtime_info|runtime|sampler_seed)
  default_hooks\.(logger|checkpoint)\.type
  train_dataloader\.(num_workers|persistent_workers|pin_memory|prefetch_factor)
  train_dataloader\.(collate_fn|drop_last|sampler\.type)
  train_cfg\.val_(begin|interval)
""".split()
# Keys that are set in another way, and how.
_ELSEWHERE = {
  r"load_from|.*\.pretrained|.*init_cfg.*": "see runtime.init_from",
  r"custom_imports": "see runtime.custom_imports",
  r"(train_dataloader\.dataset\.)?(data_root|ann_file|data_prefix).*": (
    "see data.data_dir and data.train"
  ),
  r"sync_bn": "see model.norm_groups, of which 1 is synchronised",
  r"(custom|default)_hooks\.\w+": "sslx has no such hook",
}


def idle(path: str) -> bool:
  """Whether a key does not change the result, for any value."""
  return any(re.match(rf"({pattern})(\.|$)", path) for pattern in _IDLE)


def reason(path: str) -> str:
  """The reason why a value is not in the command."""
  found = [why for x, why in _ELSEWHERE.items() if re.fullmatch(x, path)]
  return next(iter(found), "no counterpart")
