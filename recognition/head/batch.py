"""What enters the head: this rank's embeddings and labels, checked and normalised.

Shapes: b samples of this rank, d embedding size.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from recognition.head.kernels.reference import EPSILON

_EMBEDDING_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_LABEL_DTYPES = (torch.int64, torch.int32, torch.int16, torch.uint8, torch.int8)


def check_batch(
    embeddings: Tensor, labels: Tensor, size: int, device: torch.device, num_classes: int
) -> None:
    """Raise `ValueError` unless the batch fits a head of embedding size `size` on `device`.

    The values of labels are checked on the CPU only: on a GPU the host would have to wait.
    """
    shape = list(embeddings.shape)
    if len(shape) != 2 or shape[1] != size:
        raise ValueError(f"embeddings: shape {shape} found, expected [batch, {size}]")
    if embeddings.dtype not in _EMBEDDING_DTYPES:
        raise ValueError(
            f"embeddings: {embeddings.dtype} found, expected one of {_EMBEDDING_DTYPES}"
        )
    if embeddings.device != device:
        raise ValueError(
            f"embeddings: on {embeddings.device}, but the head computes on {device}; move one of "
            "them"
        )
    if list(labels.shape) != shape[:1]:
        raise ValueError(f"labels: shape {list(labels.shape)} found, expected {shape[:1]}")
    if labels.dtype not in _LABEL_DTYPES:
        raise ValueError(f"labels: {labels.dtype} found, expected class ids as torch.int64")
    if labels.device.type == "cpu" and len(labels) > 0:
        low, high = (int(value) for value in labels.aminmax())
        if low < 0 or high >= num_classes:
            raise ValueError(
                f"labels: {low} to {high} found, expected class ids in [0, {num_classes}); "
                "the head's num_classes must be the dataset's"
            )


def normalise(embeddings_bd: Tensor) -> tuple[Tensor, Tensor]:
    """Return the unit embeddings, float32 [b, d], and their norms before, [b]."""
    embedding_bd = embeddings_bd.float()
    norm_b = torch.linalg.vector_norm(embedding_bd, dim=1)
    return F.normalize(embedding_bd, dim=1, eps=EPSILON), norm_b


def mask_unknown(unit_bd: Tensor, label_b: Tensor, num_classes: int) -> Tensor:
    """Return the embeddings, NaN where the label is outside `[0, C)`, without a wait."""
    unknown_b = (label_b < 0) | (label_b >= num_classes)
    return unit_bd.masked_fill(unknown_b.unsqueeze(1), math.nan)
