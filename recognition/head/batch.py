"""What enters the head: this rank's embeddings and labels, checked and normalised.

Shapes: b samples of this rank, d embedding size.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from recognition.head.choices import check
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
    fits = len(shape) == 2 and shape[1] == size
    check(fits, "embeddings", f"shape {shape}", f"[batch, {size}]")
    known = embeddings.dtype in _EMBEDDING_DTYPES
    check(known, "embeddings", embeddings.dtype, f"one of {_EMBEDDING_DTYPES}")
    if embeddings.device != device:
        raise ValueError(
            f"embeddings: on {embeddings.device}, but the head computes on {device}; move one of "
            "them"
        )
    fits, found = list(labels.shape) == shape[:1], f"shape {list(labels.shape)}"
    check(fits, "labels", found, f"{shape[:1]}")
    known = labels.dtype in _LABEL_DTYPES
    check(known, "labels", labels.dtype, "class ids as torch.int64")
    if labels.device.type == "cpu" and len(labels) > 0:
        low, high = (int(value) for value in labels.aminmax())
        expected = f"class ids in [0, {num_classes}); the head's num_classes must be the dataset's"
        check(low >= 0 and high < num_classes, "labels", f"{low} to {high}", expected)


def normalise(embeddings_bd: Tensor) -> tuple[Tensor, Tensor]:
    """Return the unit embeddings, float32 [b, d], and their norms before, [b]."""
    embedding_bd = embeddings_bd.float()
    norm_b = torch.linalg.vector_norm(embedding_bd, dim=1)
    return F.normalize(embedding_bd, dim=1, eps=EPSILON), norm_b


def mask_unknown(unit_bd: Tensor, label_b: Tensor, num_classes: int) -> Tensor:
    """Return the embeddings, NaN where the label is outside `[0, C)`, without a wait."""
    unknown_b = (label_b < 0) | (label_b >= num_classes)
    return unit_bd.masked_fill(unknown_b.unsqueeze(1), math.nan)
