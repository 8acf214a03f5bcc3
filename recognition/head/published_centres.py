"""Class centres that arcface_torch saved, one file per GPU, onto any number of ranks.

Shape legend: C classes, d embedding size.

Rank r of n wrote `softmax_fc_gpu_{r}.pt`, a state dict with `weight`, or in older versions
`rank_{r}_softmax_weight.pt`, a tensor; the classes follow each other in the order of the ranks.
"""

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import torch
from torch import Tensor

from backbones.plain_pickle import WeightFileError
from backbones.weight_file import WeightFile, open_weight_file
from recognition.head.optim.rounding import RowNoise
from recognition.head.partial_fc import PartialFC

log = logging.getLogger(__name__)

_FILE: Final = re.compile(r"softmax_fc_gpu_(\d+)\.pt|rank_(\d+)_softmax_weight\.pt")
_ROWS: Final = 1 << 15  # written at a time
_SHOWN: Final = 3  # missing files in a message

Result = TypeVar("Result")


class CentresError(ValueError):
    """Files that hold no centres, not all of them, or those of other classes."""


@dataclass(frozen=True)
class PublishedCentres:
    """The files of a head, in the order of their classes."""

    files: tuple[Path, ...]
    counts: tuple[int, ...]  # of classes, by file
    size: int  # d

    @classmethod
    def open(cls, folder: Path) -> "PublishedCentres":
        """Look at the files of a folder, without their numbers.

        Raises `CentresError` if there are none, if one is missing or cannot be read, or if they
        differ in d.
        """
        found = {}
        for path in folder.iterdir() if folder.is_dir() else ():
            if match := _FILE.fullmatch(path.name):
                number = int(match[1] or match[2])
                if number in found:
                    raise CentresError(f"{folder} has two forms of part {number}: keep one")
                found[number] = path
        if not found:
            raise CentresError(
                f"{folder} has no class centres: expected a folder with softmax_fc_gpu_0.pt, "
                "softmax_fc_gpu_1.pt and so on"
            )
        if count := max(found) + 1 - len(found):
            first = min(len(found) + _SHOWN, max(found))  # a stray number may be huge
            missing = [str(n) for n in range(first) if n not in found][:_SHOWN]
            more = f" and {count - len(missing):,} more" if count > len(missing) else ""
            raise CentresError(
                f"{folder} has parts up to {max(found)} but not {', '.join(missing)}{more}: copy "
                "these files too, or remove a part that does not belong to them"
            )
        files = tuple(found[number] for number in sorted(found))
        shapes = [_read(path, lambda file, item: file.shape(item)) for path in files]
        if {len(shape) for shape in shapes} != {2} or len({shape[1] for shape in shapes}) > 1:
            raise CentresError(
                f"{folder}: the parts have shapes {', '.join(str(list(s)) for s in shapes)}, "
                "expected [C, d] with one d"
            )
        return cls(files, tuple(shape[0] for shape in shapes), shapes[0][1])

    @property
    def classes(self) -> int:
        """C."""
        return sum(self.counts)

    def load(self, head: PartialFC, seed: int) -> None:
        """Give a head, before its first step, the centres of its classes.

        `seed` is that of the head. Reads the files that have some, one at a time. Raises
        `CentresError` as `check` does, and for a file that is damaged or has other than finite
        floating-point numbers.
        """
        self.check(head.num_classes, head.table.layout()["weight"][0][1])
        start, stop = head.shard
        first = 0
        for path, count in zip(self.files, self.counts, strict=True):
            low, high = max(first, start), min(first + count, stop)
            if low < high:
                rows = _read(path, _numbers)[low - first : high - first]
                for at in range(0, len(rows), _ROWS):
                    part = rows[at : at + _ROWS].to(torch.float32)
                    _check_finite(part, path, low + at)
                    part = part.to(head.table.weight.device).clone()
                    # As the initial centres that these replace; see `create_table`.
                    noise = RowNoise(seed, -1, len(part), low + at)
                    head.table.write_centres(low - start + at, part, noise)
            first += count
        log.info("class centres from the %d files in %s", len(self.files), self.files[0].parent)

    def check(self, classes: int, width: int) -> None:
        """Raise `CentresError` unless a head has as many classes, of `width` numbers each."""
        if (self.classes, self.size) != (classes, width):
            raise CentresError(
                f"{self.files[0].parent} has {self.classes:,} classes of {self.size} numbers in "
                f"{len(self.files)} files, expected {classes:,} of {width}: it is of other data, "
                "of another network, or some of its last files are missing"
            )


def _read(path: Path, use: Callable[[WeightFile, object], Result]) -> Result:
    """Return what `use` makes of a file and the weight in it."""
    try:
        with open_weight_file(path) as file:
            return use(file, _weight(file))
    except WeightFileError as error:
        reason = str(error)
    except OSError as error:
        reason = error.strerror or str(error)
    except Exception as error:  # damage causes many kinds of errors
        reason = f"it is damaged ({type(error).__name__}: {str(error)[:200]})"
    raise CentresError(f"{path} cannot be read as class centres: {reason}; copy it anew")


def _numbers(file: WeightFile, item: object) -> Tensor:
    numbers = file.tensor(item)
    if not numbers.is_floating_point():
        raise WeightFileError(f"its numbers are {numbers.dtype}, expected torch.float32")
    return numbers


def _check_finite(rows: Tensor, path: Path, first: int) -> None:
    """Raise `CentresError` unless the centres of classes, from `first` on, are finite."""
    if not rows.isfinite().all():
        row = int(rows.isfinite().all(dim=1).logical_not().nonzero()[0])
        raise CentresError(
            f"{path}: the centre of class {first + row} is not finite in float32: copy the file "
            "anew, or choose another"
        )


def _weight(file: WeightFile) -> object:
    content = file.content
    item = content.get("weight") if isinstance(content, dict) else content
    if not file.is_tensor(item):
        names = ", ".join(list(content)[:3]) if isinstance(content, dict) else "no tensor"
        raise WeightFileError(f"it holds {names or 'nothing'}, expected the tensor `weight`")
    return item
