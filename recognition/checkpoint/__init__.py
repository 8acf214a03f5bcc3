"""Checkpoints: everything a run needs to continue, on any number of ranks."""

from recognition.checkpoint.checkpoints import Checkpoints, State
from recognition.checkpoint.folders import (
    backbone_file,
    latest,
    resolve,
)
from recognition.checkpoint.manifest import CheckpointError, read_metadata
from recognition.checkpoint.rows import Rows, ShardedRows

__all__ = [
    "CheckpointError",
    "Checkpoints",
    "Rows",
    "ShardedRows",
    "State",
    "backbone_file",
    "latest",
    "read_metadata",
    "resolve",
]
