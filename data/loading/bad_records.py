"""Records that cannot be read or decoded: replaced, counted over all ranks, and bounded.

What replaces a bad sample is a function of (seed, epoch, sample) and the dataset alone, so a run
sees the same images on any number of ranks and workers and after a resume.
"""

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist

from data.datasets.dataset import DatasetError, FaceDataset
from data.loading.decode import BadImage, decode_at
from data.records.format import RecordError

logger = logging.getLogger(__name__)

MAX_DRAWS = 100
# This many bad records do not stop a run if the whole dataset may have as many: early in a run too
# few samples were seen to tell which fraction is bad.
TOLERATED = 10
MAX_LINES = 20

Images = npt.NDArray[np.uint8]
Indices = npt.NDArray[np.int64]


class BadRecordsError(ValueError):
    """Too much of the dataset is bad; the message has the numbers and how to fix it."""


@dataclass(frozen=True)
class BadRecord:
    """A sample that could not be read."""

    index: int  # in the dataset
    fault: str  # where it is and what is wrong with it, in the reader's words


def decode_replacing(
    dataset: FaceDataset, indices: Indices, epochs: Indices, images: Images, *, seed: int
) -> tuple[Indices, tuple[BadRecord, ...]]:
    """Decode samples and their `epochs`, int64 [b] both, into `images`, uint8 [b, S, S, 3].

    Another sample takes the place of each bad one, for which the dataset raises `RecordError` or
    `DatasetError`, or the decoder `BadImage`: the first good one of a sequence of samples that
    (seed, epoch, index) determines; `seed` is 0 or more.

    Returns the indices in the dataset of the images written, int64 [b], and the bad records found.
    Raises `BadRecordsError` when `MAX_DRAWS` replacements in a row are bad.
    """
    taken = indices.copy()
    bad: list[BadRecord] = []
    for row, (index, epoch) in enumerate(zip(indices.tolist(), epochs.tolist(), strict=True)):
        known = len(bad)
        for candidate in _candidates(index, epoch, seed, len(dataset)):
            try:
                decode_at(dataset, candidate, images[row])
            # A store that does not answer raises something else: its samples are not bad.
            except (BadImage, DatasetError, RecordError) as error:
                bad.append(BadRecord(candidate, str(error)))
            else:
                taken[row] = candidate
                break
        else:
            raise BadRecordsError(
                f"{bad[known].fault}; and the {MAX_DRAWS} samples drawn to replace it are bad too, "
                f"the last one is {bad[-1].fault}: is the dataset still there and complete? Run "
                "check_records.py on it"
            )
    return taken, tuple(bad)


def _candidates(index: int, epoch: int, seed: int, count: int) -> Iterator[int]:
    """Yield a sample of `count`, and then those that may take its place, if one is asked for."""
    yield index
    draws = np.random.SeedSequence((seed, epoch, index)).generate_state(MAX_DRAWS, np.uint64)
    yield from (draws % np.uint64(count)).tolist()


class BadRecords:
    """The bad records of a run: each rank adds those that it meets, and `agree` combines them.

    Of the n = `num_samples` of the dataset, the fraction `max_bad_share` may be bad. Raises
    `ValueError` unless that is above 0 and at most 1.
    """

    def __init__(self, num_samples: int, max_bad_share: float) -> None:
        if not 0 < max_bad_share <= 1:
            raise ValueError(f"max_bad_share is {max_bad_share}: expected above 0, at most 1")
        self._num_samples = num_samples
        self._max_share = max_bad_share
        self._agreed: set[int] = set()
        self._new: dict[int, BadRecord] = {}
        self._is_restored = False  # and not yet checked: `max_bad_share` may have changed
        self._logged = 0

    def add(self, records: Iterable[BadRecord]) -> None:
        """Add what this rank has met; the same record may come any number of times."""
        for record in records:
            if record.index not in self._agreed:
                self._new.setdefault(record.index, record)

    def agree(self, samples: int) -> int:
        """Return how many different bad records all ranks have met, and log the new ones.

        Collective where there is a process group. `samples` is the number of samples that the run
        has taken so far. Rank 0 logs, each record once and at most `MAX_LINES` in all. Raises
        `BadRecordsError`, on every rank, when the bad fraction of the different samples seen
        exceeds `max_bad_share`, unless there are `TOLERATED` bad records or fewer and that is
        within `max_bad_share` of the whole dataset.

        The number of different samples seen is taken as min(samples, n). That is exact for orders
        that visit each sample once per epoch. The class samplers repeat samples of small classes
        before they have visited all of large ones: m samples of `class_balanced` are the sum over
        classes of min(m/C, n_c) different ones, up to rounding. With them the bound may be reached
        later but never sooner, and with every order it is reached once more than `max_bad_share`
        of the whole dataset was found bad.
        """
        found = {record.index: record for record in _gather(list(self._new.values()))}
        self._new.clear()
        self._agreed |= found.keys()
        if not dist.is_initialized() or dist.get_rank() == 0:
            self._log([found[index] for index in sorted(found)])
        if found or self._is_restored:
            self._check(min(samples, self._num_samples), found)
        self._is_restored = False
        return len(self._agreed)

    def _check(self, seen: int, found: dict[int, BadRecord]) -> None:
        """Raise `BadRecordsError` if too many of `seen` samples are bad; `found` are new ones."""
        allowed = max(self._max_share * seen, min(self._max_share * self._num_samples, TOLERATED))
        if len(self._agreed) <= allowed:
            return
        one = min(found) if found else min(self._agreed)
        fault = found[one].fault if found else f"image {one} of the dataset, by the checkpoint"
        raise BadRecordsError(
            f"{len(self._agreed)} of {seen} samples seen so far are bad, more than max_bad_share "
            f"{self._max_share:g} allows; one of them: {fault}. Fix the dataset (check_records.py "
            "lists all that is wrong with records), or raise max_bad_share"
        )

    def state(self) -> list[int]:
        """Return the indices of all bad records in ascending order, for a checkpoint."""
        return sorted(self._agreed)

    def restore(self, state: Iterable[int]) -> None:
        """Continue from a saved state, whose records were counted and logged."""
        self._agreed = set(state)
        self._new.clear()
        self._is_restored = True

    def _log(self, records: list[BadRecord]) -> None:
        for record in records[: max(MAX_LINES - self._logged, 0)]:
            logger.warning("bad record, replaced by another sample: %s", record.fault)
        if self._logged <= MAX_LINES < self._logged + len(records):
            logger.warning("further bad records are counted but not listed")
        self._logged += len(records)


def _gather(local: list[BadRecord]) -> list[BadRecord]:
    """Return the records of all ranks; where there are none, only a count is exchanged."""
    if not dist.is_initialized():
        return local
    count = torch.tensor(len(local))
    dist.all_reduce(count)
    if not count:
        return []
    parts: list[list[BadRecord]] = [[] for _ in range(dist.get_world_size())]
    dist.all_gather_object(parts, local)
    return [record for part in parts for record in part]
