"""The settings of the two passes, and the memory budgets of devices."""

import math
from dataclasses import dataclass
from numbers import Integral

import torch

from recognition.head.choices import check
from recognition.head.kernels.block import LogitTransform
from recognition.head.losses.base import Loss

# A block's temporaries should fit the caches of a CPU, and be large enough that the overhead of its
# few dozen operations is small: of 4, 6, 8, 12 and 16 MiB, 12 was the fastest at d = 512 on two
# cores with 1 MiB of their own each and 32 MiB shared. A GPU needs few launches instead. The
# exponentials kept for the second pass may take a few percent of a large table.
BLOCK_BYTES = {"cpu": 12 << 20, "cuda": 256 << 20}
KEEP_BYTES = {"cpu": 128 << 20, "cuda": 1 << 30}
STAGE_BYTES = 1 << 30  # device memory for rows of a table in CPU memory that are sent ahead

_MATMUL_DTYPES = (torch.float32, torch.bfloat16)


def budget(stated: int | None, by_device: dict[str, int], device: torch.device) -> int:
    """Return the budget that was stated, else the device's."""
    return by_device.get(device.type, by_device["cpu"]) if stated is None else stated


@dataclass(frozen=True)
class StreamSettings:
    """What both passes must agree on. Raises `ValueError` for a setting out of its range."""

    scale: float  # factor s of the cosines, finite and above 0
    # Negatives with a cosine above it are left out, as if their classes did not exist.
    inter_class_filter: float | None = None
    block_bytes: int = BLOCK_BYTES["cpu"]  # budget for the temporaries of one block, at least 1
    keep_bytes: int = KEEP_BYTES["cpu"]  # budget for keeping the first pass's exponentials
    # float32 or bfloat16, of the factors of the block products, which are rounded to it.
    # Statistics and gradients are float32 in any case.
    matmul_dtype: torch.dtype = torch.float32

    def __post_init__(self) -> None:
        positive = math.isfinite(self.scale) and self.scale > 0.0
        check(positive, "scale", self.scale, "a finite number above 0")
        limit = self.inter_class_filter
        in_range = limit is None or -1.0 <= limit <= 1.0
        check(in_range, "inter_class_filter", limit, "a cosine in [-1, 1], or None for no filter")
        check(self.block_bytes >= 1, "block_bytes", self.block_bytes, "at least 1")
        check(self.keep_bytes >= 0, "keep_bytes", self.keep_bytes, "at least 0")
        known = self.matmul_dtype in _MATMUL_DTYPES
        check(known, "matmul_dtype", self.matmul_dtype, f"one of {_MATMUL_DTYPES}")

    @property
    def log2_scale(self) -> float:
        """The scale of logits to base 2: `2^(log2_scale·c) = exp(scale·c)`."""
        return self.scale / math.log(2.0)

    @property
    def plain_transform(self) -> LogitTransform:
        """How cosines become logits where a class has one centre and all negatives count alike."""
        return LogitTransform(self.log2_scale, self.inter_class_filter)

    def keeps(self, centres: int, samples: int, *, few: bool = False) -> bool:
        """Return whether the exponentials of so many centres and samples fit the budget.

        For `few`, whose second product would take little time, that of a block.
        """
        budget = min(self.keep_bytes, self.block_bytes) if few else self.keep_bytes
        return centres * samples * self.matmul_dtype.itemsize <= budget


def check_parts(
    embedding_size: object, num_classes: object, loss: object, optimizer: object
) -> None:
    """Raise `ValueError` for a size that is no positive integer, and for parts of another kind.

    A loss or an optimizer may have been given by its name or as a class.
    """
    sizes = embedding_size, num_classes
    if not all(isinstance(size, Integral) and int(size) >= 1 for size in sizes):
        raise ValueError(
            f"embedding_size {embedding_size!r} and num_classes {num_classes!r} found, "
            "expected two integers of at least 1"
        )

    def found(part: object) -> str:
        return repr(part) if isinstance(part, str | type) else f"a {type(part).__name__}"

    is_loss = isinstance(loss, Loss)
    check(is_loss, "loss", found(loss), "a Loss, such as cosface(0.4) or build_loss('cosface')")
    methods = [getattr(optimizer, name, None) for name in ("state", "update")]
    is_optimizer = all(map(callable, methods)) and not isinstance(optimizer, type)
    expected = "a RowOptimizer, such as RowSGD() or build_row_optimizer('sgd')"
    check(is_optimizer, "optimizer", found(optimizer), expected)
