"""Networks that turn aligned face images into embeddings."""

from backbones.batch_norm import freeze_batch_norm
from backbones.build import BACKBONES, build_backbone
from backbones.ema import WeightAverage
from backbones.freezing import freeze_until
from backbones.weights import build_for_weights, load_weights, read_weights

__all__ = [
    "BACKBONES",
    "WeightAverage",
    "build_backbone",
    "build_for_weights",
    "freeze_batch_norm",
    "freeze_until",
    "load_weights",
    "read_weights",
]
