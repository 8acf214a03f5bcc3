"""Checkpoints: everything a run needs to continue, on any number of ranks."""

from recognition.checkpoint.checkpoints import Checkpoints, ShardedRows, State
from recognition.checkpoint.folders import (
    backbone_file,
    latest,
    resolve,
)
from recognition.checkpoint.manifest import CheckpointError, read_metadata

__all__ = [
    "CheckpointError",
    "Checkpoints",
    "ShardedRows",
    "State",
    "backbone_file",
    "latest",
    "read_metadata",
    "resolve",
]
