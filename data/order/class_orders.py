"""Orders that choose samples by class: each class equally often, or P identities x K images.

Shape legend: n samples, C classes, n_c images of class c, m positions of a request.

Like the orders of `data.order.orders`, these are pure functions of (seed, position) and can start
anywhere. At no point has every image been visited once, so their epoch, for the plan of a run, is n
samples. The epoch that they return for a sample counts the passes through the images of its class
instead, so that it differs at each visit of the sample.

Pass t of class c takes its images in the order `permute(·, key(seed, IMAGES, c, t), n_c)`. Round r
takes the classes in the order `permute(·, key(seed, CLASSES, r), C)`. These two and the formulas
below define everything.

An order holds two int64 per class and, unless the labels are ascending, one int32 per image: 68 MB
for 17 million images. Each rank has one; loader workers receive indices and need none.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.order.orders import CLASSES, IMAGES, compact, look_up, positions_between
from data.order.permutation import make_keys, permute


class ClassBalancedOrder:
    """Each class equally often, however many images it has.

    Position p belongs to round r = p // C and has an image of class
    c = `permute(p % C, key(seed, CLASSES, r), C)`: every round has every class once. It is image
    number r % n_c of pass r // n_c of that class: no image is repeated before all others of its
    class have been visited.

    `labels` are integers [n], 0 to C - 1 without gaps; 0 <= seed < 2**64. Raises `ValueError` for
    others.
    """

    neighbours_follow = False

    def __init__(self, labels: NDArray[np.signedinteger[Any]], seed: int) -> None:
        self.num_samples = len(labels)
        self._classes = _Classes(labels, seed)

    def order(self, start: int, stop: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """See `data.order.orders.SampleOrder`."""
        positions_m = positions_between(start, stop)
        rounds_m, turns_m = np.divmod(positions_m, self._classes.num_classes)
        classes_m = self._classes.at(rounds_m, turns_m)
        passes_m, turns_m = np.divmod(rounds_m, self._classes.counts[classes_m])
        return self._classes.images(classes_m, passes_m, turns_m), passes_m


class PKOrder:
    """Groups of P different identities with K images each, for losses that compare within a batch.

    Group i is the positions `[i*P*K, (i+1)*P*K)`, one identity after another, so a batch of whole
    groups has P x K images, and if the number of ranks divides P, each rank has whole identities. A
    round is C // P groups; the C % P identities that do not fill a group are left out, different
    ones in each round. Identity j of round r is c = `permute(j, key(seed, CLASSES, r), C)`, and
    image k of its K is

    - for n_c >= K, where a pass is enough for n_c // K groups: image number (r % (n_c // K))*K + k
      of pass r // (n_c // K), so the K images differ, and none is repeated within a pass;
    - for n_c < K, where a group takes ceil(K / n_c) passes: image number k % n_c of pass
      r*ceil(K / n_c) + k // n_c, so the numbers of times that images occur differ by at most one.

    `labels` are integers [n], 0 to C - 1 without gaps; 0 <= seed < 2**64. Raises `ValueError` for
    others.
    """

    neighbours_follow = False

    def __init__(
        self,
        labels: NDArray[np.signedinteger[Any]],
        seed: int,
        *,
        identities_per_batch: int,  # P, from 1 to C
        images_per_identity: int,  # K, at least 1
    ) -> None:
        self.num_samples = len(labels)
        self._classes = _Classes(labels, seed)
        if not 1 <= identities_per_batch <= self._classes.num_classes:
            raise ValueError(
                f"identities_per_batch is {identities_per_batch}: expected 1 to "
                f"{self._classes.num_classes}, the number of identities"
            )
        if images_per_identity < 1:
            raise ValueError(f"images_per_identity is {images_per_identity}: expected at least 1")
        self.images_per_identity = images_per_identity
        groups = self._classes.num_classes // identities_per_batch
        self._identities_per_round = groups * identities_per_batch

    def order(self, start: int, stop: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """See `data.order.orders.SampleOrder`."""
        wanted = self.images_per_identity
        identities_m, images_m = np.divmod(positions_between(start, stop), wanted)
        rounds_m, turns_m = np.divmod(identities_m, self._identities_per_round)
        classes_m = self._classes.at(rounds_m, turns_m)
        counts_m = self._classes.counts[classes_m]

        # One formula for both cases: the passes per group are 1 for a class of K images or more,
        # the groups per pass are 1 for a smaller class, and the other terms vanish.
        groups_per_pass_m = np.maximum(counts_m // wanted, 1)
        passes_per_group_m = (counts_m + (wanted - 1)) // counts_m
        passes_m = rounds_m // groups_per_pass_m * passes_per_group_m + images_m // counts_m
        turns_m = rounds_m % groups_per_pass_m * wanted + images_m % counts_m
        return self._classes.images(classes_m, passes_m, turns_m), passes_m


class FirstImagesOrder:
    """The first K images of each class, class by class, in the order of the dataset.

    For a look at every class that is as short as possible; epoch e, the positions
    `[e*m, (e+1)*m)`, has each of these m images once. No seed: all epochs are alike.

    `labels` are integers [n], 0 or more; gaps do no harm. `count` is m. Raises `ValueError` unless
    `images_per_class` is at least 1 and there is a sample.
    """

    neighbours_follow = False

    def __init__(self, labels: NDArray[np.signedinteger[Any]], *, images_per_class: int) -> None:
        if images_per_class < 1 or len(labels) == 0:
            raise ValueError(
                f"images_per_class is {images_per_class} for {len(labels)} labels: expected 1 or "
                "more of both"
            )
        self.num_samples = len(labels)
        by_class = np.argsort(labels, kind="stable")
        counts = np.bincount(labels)
        turns = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
        self._table = compact(by_class)[turns < images_per_class]
        self.count = len(self._table)

    def order(self, start: int, stop: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """See `data.order.orders.SampleOrder`."""
        epochs_m, offsets_m = np.divmod(positions_between(start, stop), self.count)
        return look_up(self._table, offsets_m), epochs_m


class _Classes:
    """The images of each class, the shuffle of the classes and that of the images of a class."""

    def __init__(self, labels: NDArray[np.signedinteger[Any]], seed: int) -> None:
        make_keys(seed)  # refuses a wrong seed
        if len(labels) == 0:
            raise ValueError("labels are empty: expected at least 1 sample")
        self.seed = seed
        self.counts = np.bincount(labels)  # images of each class, int64 [C]
        self.num_classes = len(self.counts)
        empty = np.flatnonzero(self.counts == 0)
        if len(empty):
            raise ValueError(
                f"no image has class {empty[0]} ({len(empty)} such classes below "
                f"{self.num_classes}): expected classes without gaps; set remap_labels"
            )
        self._firsts = np.cumsum(self.counts) - self.counts
        # Most files are written identity by identity, and then need no table.
        ascending = bool((labels[1:] >= labels[:-1]).all())
        self._table = None if ascending else compact(np.argsort(labels, kind="stable"))

    def at(self, rounds_m: NDArray[np.int64], turns_m: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the class at each turn of each round."""
        return permute(turns_m, make_keys(self.seed, CLASSES, rounds_m), self.num_classes)

    def images(
        self,
        classes_m: NDArray[np.int64],
        passes_m: NDArray[np.int64],
        turns_m: NDArray[np.int64],
    ) -> NDArray[np.int64]:
        """Return the sample at each turn of each pass through its class."""
        keys_m = make_keys(self.seed, IMAGES, classes_m, passes_m)
        indices_m = self._firsts[classes_m] + permute(turns_m, keys_m, self.counts[classes_m])
        return look_up(self._table, indices_m)
