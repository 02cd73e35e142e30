"""Checkpoints: the only folder that imports Orbax.

A checkpoint is `{state, data}`: the whole TrainState and the state of the data
iterator, committed together or not at all. Saves run in the background. Orbax
renames a finished checkpoint into place, so a kill at any moment leaves the
last good checkpoint intact. The metadata hold a checksum of each array.
"""

from sslx.checkpoint.reading import CheckpointError
from sslx.checkpoint.run import Checkpoint, Checkpoints
from sslx.checkpoint.weights import Weights

__all__ = ["Checkpoint", "CheckpointError", "Checkpoints", "Weights"]
