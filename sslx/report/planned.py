"""What a config describes, built without the images, to be looked at."""

from __future__ import annotations

import dataclasses

import jax
from ml_collections import ConfigDict

from sslx import config as config_lib
from sslx import experiment
from sslx.aot import absent
from sslx.data import pipeline, sources
from sslx.data.sets import Images


def build(config: ConfigDict, images: int | None) -> experiment.Experiment:
  """Builds an experiment on one device; ImageNet and CIFAR-10 may be absent.

  Args:
    config: the whole config, with its four sections.
    images: number of training images, for a set that is not on this machine.

  Raises:
    ConfigError: something in the config cannot run; or the number of images is
      not known, and the set cannot be read.
  """
  data = config_lib.build(pipeline.Data, config.data, "data")
  sets = absent.sets(data)
  if images is not None:
    if images < data.batch_size:
      raise config_lib.ConfigError(
        f"--images={images}: it must be at least a batch, {data.batch_size}."
      )
    sets = absent.Absent(images, None), None
  elif sets is None:
    sets = _open(data)
  config = config.copy_and_resolve_references().unlock()
  del config.runtime["parallel"]  # A mesh may need more devices than are here.
  return experiment.build(config, jax.devices()[:1], sets)


def _open(data: pipeline.Data) -> tuple[Images, Images | None]:
  """Opens the sets of a config; downloads nothing."""
  source = dataclasses.replace(data.records, prepare=False)
  try:
    train = sources.load(source, "train")
    return train, sources.load(source, "test", train.classes)
  except config_lib.ConfigError as error:
    raise config_lib.ConfigError(
      f"{error} Or give the number of training images: --images=N."
    ) from error
