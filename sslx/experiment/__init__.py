"""Everything that a config describes: built and checked, before it runs."""

from sslx.experiment.building import build
from sslx.experiment.experiment import Experiment

__all__ = ["Experiment", "build"]
