"""A run folder with a small network, without training one."""

from pathlib import Path

import numpy as np
import torch

from backbones import build_backbone
from recognition.checkpoint import Checkpoints, State
from recognition.distributed import World

SIZE, EMBEDDING = 32, 24


def write_run(folder: Path, seed: int = 0) -> Path:
    """Write a checkpoint of `rtiny`, whose batch norms have seen something, and return `folder`."""
    torch.manual_seed(seed)
    backbone = build_backbone("rtiny", embedding_size=EMBEDDING, image_size=SIZE)
    for _ in range(2):
        backbone(torch.randn(16, 3, SIZE, SIZE))
    config = {"data": {"image_size": SIZE, "train": "data/people"}, "seed": 1}
    state = State(backbone.state_dict(), {}, {}, {"config": config})
    Checkpoints(folder, world=World(), keep=1).save(7, state, best=False)
    return folder


def faces(count: int, size: int = SIZE, seed: int = 0) -> np.ndarray:
    """Return uint8 [count, size, size, 3] at random."""
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)
