"""Records that cannot be read or decoded: replaced, counted over all ranks, and bounded.

What takes the place of a bad sample is a function of (seed, epoch, sample) and the dataset alone,
so a run sees the same images on any number of ranks and workers and after a resume.
"""

import logging
from collections.abc import Iterable
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
# So many bad records are no reason to stop if that is not too many for the whole dataset: by then
# too few samples were seen to tell their share.
TOLERATED = 10
MAX_LINES = 20

Images = npt.NDArray[np.uint8]
Indices = npt.NDArray[np.int64]


class BadRecordsError(ValueError):
    """More of the dataset is bad than may be; the message has the numbers and the mend."""


@dataclass(frozen=True)
class BadRecord:
    """A sample that could not be read.

    Attributes:
        index: its place in the dataset.
        fault: where it is and what is wrong with it, as the reader said.
    """

    index: int
    fault: str


def decode_replacing(
    dataset: FaceDataset, indices: Indices, epochs: Indices, images: Images, *, seed: int
) -> tuple[Indices, tuple[BadRecord, ...]]:
    """Decode a batch, another sample of the dataset in the place of each bad one.

    A bad sample is one for which the dataset raises `RecordError` or `DatasetError`, or the decoder
    `BadImage`. Its place is taken by the first good one of a sequence of samples that (seed, epoch,
    index) determines.

    Args:
        dataset: where samples and replacements come from.
        indices: the wanted samples; int64 [b].
        epochs: the epoch of each; int64 [b].
        images: where they go; uint8 [b, S, S, 3].
        seed: of the replacements, 0 or more.

    Returns the places in the dataset that the images really come from, int64 [b], and the bad
    records that were met. Raises `BadRecordsError` when `MAX_DRAWS` replacements in a row are bad.
    """
    taken = indices.copy()
    bad: list[BadRecord] = []
    for row, (index, epoch) in enumerate(zip(indices.tolist(), epochs.tolist(), strict=True)):
        fault = _fault(dataset, index, images[row])
        if fault is not None:
            bad.append(fault)
            taken[row] = _replace(dataset, fault, epoch, seed, images[row], bad)
    return taken, tuple(bad)


def _replace(
    dataset: FaceDataset,
    fault: BadRecord,
    epoch: int,
    seed: int,
    image: Images,
    bad: list[BadRecord],
) -> int:
    """Decode the replacement into `image`, note bad ones in `bad`, and return its index."""
    draws = np.random.SeedSequence((seed, epoch, fault.index)).generate_state(MAX_DRAWS, np.uint64)
    for index in (draws % np.uint64(len(dataset))).tolist():
        another = _fault(dataset, index, image)
        if another is None:
            return int(index)
        bad.append(another)
    raise BadRecordsError(
        f"{fault.fault}; and the {MAX_DRAWS} samples drawn in its place are bad too, the last one "
        f"is {bad[-1].fault}: is the dataset still there and whole? check_records.py tells"
    )


def _fault(dataset: FaceDataset, index: int, image: Images) -> BadRecord | None:
    """Decode the sample at `index` into `image`, or return what is wrong with it.

    A store that does not answer raises here: what is not delivered is not bad.
    """
    try:
        decode_at(dataset, index, image)
    except (BadImage, DatasetError, RecordError) as error:
        return BadRecord(index, str(error))
    return None


class BadRecords:
    """The bad records of a run: all ranks find them, and agree on them now and then.

    Args:
        num_samples: n, samples of the dataset.
        max_share: the most of the samples that may be bad, above 0, at most 1.
    """

    def __init__(self, num_samples: int, max_share: float) -> None:
        self._num_samples = num_samples
        self._max_share = max_share
        self._agreed: set[int] = set()
        self._new: dict[int, BadRecord] = {}
        self._is_restored = False  # and not looked at since: `max_share` may be another by now
        self._logged = 0

    def add(self, records: Iterable[BadRecord]) -> None:
        """Note what this rank has met; the same record may come any number of times."""
        for record in records:
            if record.index not in self._agreed:
                self._new.setdefault(record.index, record)

    def agree(self, samples: int) -> int:
        """Count the different bad records that all ranks have met, and log the new ones.

        Collective where there is a process group. `samples` is how many the run has taken so far.
        Rank 0 logs, each record once and at most `MAX_LINES` of them in all. Raises
        `BadRecordsError`, on every rank, when their share of the different samples seen exceeds
        `max_share`, unless that is `TOLERATED` records or fewer and within the share of the
        whole dataset.

        As different samples seen count min(samples, n). That is exact for orders that visit each
        sample once an epoch. The class samplers repeat those of small classes before large ones
        are through: of `class_balanced`, m samples are the sum over classes of min(m/C, n_c)
        different ones, to the round. So with them the bound may be reached later, never sooner;
        and with every order it is reached once more than `max_share` of the whole dataset was bad.
        """
        found = {record.index: record for record in _gather(list(self._new.values()))}
        self._new.clear()
        self._agreed |= found.keys()
        if not dist.is_initialized() or dist.get_rank() == 0:
            self._log([found[index] for index in sorted(found)])
        if found or self._is_restored:
            self._check_share(min(samples, self._num_samples), found)
        self._is_restored = False
        return len(self._agreed)

    def _check_share(self, seen: int, found: dict[int, BadRecord]) -> None:
        """Raise `BadRecordsError` for too many among `seen` samples; `found` are the new ones."""
        share = self._max_share
        if len(self._agreed) <= max(share * seen, min(share * self._num_samples, TOLERATED)):
            return
        one = min(found) if found else min(self._agreed)
        fault = found[one].fault if found else f"image {one} of the dataset, by the checkpoint"
        raise BadRecordsError(
            f"{len(self._agreed)} of {seen} samples seen so far are bad, more than the share "
            f"of {share:g} that max_bad_share allows; one of them: {fault}. Mend the "
            "dataset (check_records.py lists all that is wrong with records), or raise "
            "max_bad_share"
        )

    def state(self) -> list[int]:
        """Return the places of all bad records in ascending order, to be saved."""
        return sorted(self._agreed)

    def restore(self, state: Iterable[int]) -> None:
        """Go on from a saved state: these records were counted and logged."""
        self._agreed = set(state)
        self._new.clear()
        self._is_restored = True

    def _log(self, records: list[BadRecord]) -> None:
        for record in records[: max(MAX_LINES - self._logged, 0)]:
            logger.warning("bad record, another sample in its place: %s", record.fault)
        if self._logged <= MAX_LINES < self._logged + len(records):
            logger.warning("further bad records are counted and not listed")
        self._logged += len(records)


def _gather(own: list[BadRecord]) -> list[BadRecord]:
    """Return the records of all ranks; ranks talk at length only when there are any."""
    if not dist.is_initialized():
        return own
    count = torch.tensor(len(own))
    dist.all_reduce(count)
    if not count:
        return []
    every: list[list[BadRecord]] = [[] for _ in range(dist.get_world_size())]
    dist.all_gather_object(every, own)
    return [record for records in every for record in records]
