"""Runs a module as on a TPU VM: `python on_tpu.py -m MODULE ARGS`.

Where there is no TPU jax tells itself, when it is imported, not to look for a
metadata server. This takes that back; all else is as JAX_FORCE_TPU_INIT=1 has
it.
"""

import os
import runpy
import sys

import jax  # noqa: F401

if __name__ == "__main__":
  os.environ.pop("TPU_SKIP_MDS_QUERY", None)
  sys.argv = sys.argv[2:]
  sys.path[0] = os.getcwd()
  runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
