"""The order in which samples are visited: endless streams of samples that can start anywhere.

Shape legend: n samples of the dataset, m positions of a request.

Training reads one stream of positions 0, 1, 2, … and an order gives the sample at each position, as
a pure function of (seed, position). There is no list of n indices and no generator with a state, so
the cost depends on the length of a request only: a run resumes at position 10⁹ at once, and every
rank computes its own slice. The orders of this module visit each sample once in each epoch, the
positions `[e*n, (e+1)*n)`; those of `data.order.class_orders` choose samples by their class.

Two orders follow the files: `stored[i]` is the index of the image that is i-th in the files
(`FaceDataset.storage_order`), which need not be image i. Where the two differ, this takes one int32
per image, 68 MB for 17 million; otherwise it takes nothing.
"""

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from data.order.permutation import make_keys, permute

# Each random decision has a number, so that its keys differ from those of the others for the same
# seed. `GlobalOrder` has none: its keys are those of (seed, epoch). Never reuse a number.
START, BLOCKS, MIXTURE, CLASSES, IMAGES = range(1, 6)


class SampleOrder(Protocol):
    """An endless stream of samples of a dataset of n; `num_samples` positions are an epoch."""

    @property
    def num_samples(self) -> int:
        """Return n."""

    @property
    def neighbours_follow(self) -> bool:
        """Return whether the neighbours of a sample in its file come soon after it."""

    def order(self, start: int, stop: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the samples at positions `[start, stop)` and the epoch of each.

        Both arrays are int64 [m] with m = stop - start; the range may span several epochs. Memory
        and time grow with m only. A sample never occurs twice with the same epoch, so random draws
        by (epoch, sample), such as augmentation, differ at each visit. Raises `ValueError` unless
        `0 <= start <= stop`.
        """


def positions_between(start: int, stop: int) -> NDArray[np.int64]:
    """Return the positions `[start, stop)`; raises `ValueError` unless `0 <= start <= stop`."""
    if not 0 <= start <= stop:
        raise ValueError(f"positions [{start}, {stop}): expected 0 <= start <= stop")
    return np.arange(start, stop, dtype=np.int64)


class GlobalOrder:
    """A random order of the whole dataset, a different one in each epoch.

    The sample at position p of epoch e = p // n is

        permute(p - e*n, key(seed, e), n)

    where `permute` is a keyed bijection of `[0, n)`.

    0 <= seed < 2**64; different seeds give unrelated orders. Raises `ValueError` for others.
    """

    neighbours_follow = False

    def __init__(self, num_samples: int, seed: int) -> None:
        self.num_samples = _checked_count(num_samples)
        self.seed = seed
        make_keys(seed)  # refuses a wrong seed

    def order(self, start: int, stop: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """See `SampleOrder`."""
        epochs_m, offsets_m = np.divmod(positions_between(start, stop), self.num_samples)
        return permute(offsets_m, make_keys(self.seed, epochs_m), self.num_samples), epochs_m


class FileOrder:
    """The order of the files, the same in each epoch: position p has the sample `stored[p % n]`.

    `stored` is the storage order, integers [n]; None if it is the order of the indices. Raises
    `ValueError` for no samples, or for a storage order of another length.
    """

    neighbours_follow = True

    def __init__(
        self, num_samples: int, stored: NDArray[np.signedinteger[Any]] | None = None
    ) -> None:
        self.num_samples = _checked_count(num_samples)
        self._stored = _checked_storage(num_samples, stored)

    def order(self, start: int, stop: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """See `SampleOrder`."""
        epochs_m, offsets_m = np.divmod(positions_between(start, stop), self.num_samples)
        return look_up(self._stored, offsets_m), epochs_m


class BlockOrder:
    """Blocks of consecutive records in random order, with the images of a few blocks shuffled.

    For storage with slow random reads: at any time the images come from at most M blocks of S
    consecutive records, which are finished before other blocks are started, so a reader holds at
    most M·S records. The record at position p of epoch e = p // n, with u = p - e*n, is:

    1. The files, as a ring, are divided into blocks of S records, starting at record
       `key(seed, START, e) % n`. The n // S whole blocks are put in the order
       `permute(·, key(seed, BLOCKS, e), n // S)`; the rest of the ring comes last.
    2. These ceil(n/S) blocks are divided as evenly as possible (`part_range`) into the fewest
       groups of at most M. In the group of the records `[f, g)` of this order, with f <= u < g, the
       record is number `f + permute(u - f, key(seed, MIXTURE, e, f), g - f)`.

    A block may begin in one file and end in the next. As the start moves, each sample is equally
    likely at each position of an epoch, and shares its block with other samples in each epoch.

    0 <= seed < 2**64. Raises `ValueError` for values out of range, or for a storage order of
    another length.
    """

    neighbours_follow = True

    def __init__(
        self,
        num_samples: int,
        seed: int,
        *,
        block_records: int,  # S, at least 1
        mixing_blocks: int,  # M, at least 1; with more, batches are mixed better
        stored: NDArray[np.signedinteger[Any]] | None = None,  # see `FileOrder`
    ) -> None:
        if block_records < 1 or mixing_blocks < 1:
            raise ValueError(
                f"block_records is {block_records} and mixing_blocks {mixing_blocks}: both must be "
                "at least 1"
            )
        self.num_samples = _checked_count(num_samples)
        self.seed = seed
        make_keys(seed)  # refuses a wrong seed
        self.block_records = block_records
        self._stored = _checked_storage(num_samples, stored)
        self._whole_blocks = num_samples // block_records
        blocks = -(-num_samples // block_records)
        groups = -(-blocks // mixing_blocks)
        # The first `larger` groups have `smaller + 1` blocks, the others `smaller`.
        smaller, larger = divmod(blocks, groups)
        self._smaller_span = smaller * block_records
        self._larger_span = (smaller + 1) * block_records
        self._smaller_from = larger * self._larger_span

    def order(self, start: int, stop: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """See `SampleOrder`."""
        epochs_m, offsets_m = np.divmod(positions_between(start, stop), self.num_samples)
        firsts_m, spans_m = self._groups(offsets_m)
        keys_m = make_keys(self.seed, MIXTURE, epochs_m, firsts_m)
        mixed_m = firsts_m + permute(offsets_m - firsts_m, keys_m, spans_m)

        blocks_m, within_m = np.divmod(mixed_m, self.block_records)
        keys_m = make_keys(self.seed, BLOCKS, epochs_m)
        whole = np.flatnonzero(blocks_m < self._whole_blocks)
        blocks_m[whole] = permute(blocks_m[whole], keys_m[whole], self._whole_blocks)

        starts_m = make_keys(self.seed, START, epochs_m) % np.uint64(self.num_samples)
        records_m = starts_m.astype(np.int64) + blocks_m * self.block_records + within_m
        return look_up(self._stored, records_m % self.num_samples), epochs_m

    def _groups(self, offsets_m: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the first offset of each offset's group, and the records of that group."""
        is_larger_m = offsets_m < self._smaller_from
        spans_m = np.where(is_larger_m, self._larger_span, self._smaller_span)
        begin_m = np.where(is_larger_m, 0, self._smaller_from)
        firsts_m = offsets_m - (offsets_m - begin_m) % spans_m
        return firsts_m, np.minimum(spans_m, self.num_samples - firsts_m)


def compact(indices: NDArray[np.signedinteger[Any]]) -> NDArray[np.signedinteger[Any]]:
    """Return indices below n = len(indices) as int32 if they fit, otherwise as they are."""
    return indices.astype(np.int32, copy=False) if len(indices) <= 2**31 else indices


def _checked_count(num_samples: int) -> int:
    if num_samples < 1:
        raise ValueError(f"num_samples is {num_samples}: an order needs at least 1 sample")
    return num_samples


def _checked_storage(
    num_samples: int, stored: NDArray[np.signedinteger[Any]] | None
) -> NDArray[np.signedinteger[Any]] | None:
    if stored is None:
        return None
    if stored.shape != (num_samples,):
        raise ValueError(
            f"the storage order has shape {stored.shape}: expected one index for each of "
            f"{num_samples} samples"
        )
    return compact(stored)


def look_up(
    table: NDArray[np.signedinteger[Any]] | None, indices_m: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return the table's entries as int64 [m], or the indices themselves if there is no table."""
    return indices_m if table is None else table[indices_m].astype(np.int64)
