"""Orders that choose samples by their class: each class equally often, or P identities x K images.

Shape legend: n samples, C classes, n_c images of class c, m positions of a request.

These are streams like those of `data.order.orders`: pure functions of (seed, position), which start
anywhere. They have no end at which every image was visited once, so their epoch, for the plan of a
run, is n samples drawn. The epoch that they state for a sample counts the passes through the
images of its class instead, so that it differs at each of the sample's visits.

Pass t of class c takes its images in the order `permute(·, key(seed, IMAGES, c, t), n_c)`. Round r
takes the classes in the order `permute(·, key(seed, CLASSES, r), C)`. With the draws below these
two define everything.

What is kept is two int64 a class and, unless the labels already ascend, one int32 an image: 68 MB
for 17 million images. It is made once a rank; loader workers receive indices and need none of it.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.order.orders import CLASSES, IMAGES, compact, positions_between
from data.order.permutation import make_keys, permute


class ClassBalancedOrder:
    """Each class equally often, however many images it has.

    Position p belongs to round r = p // C and holds an image of class
    c = `permute(p % C, key(seed, CLASSES, r), C)`: every round has every class once. It is image
    number r % n_c of pass r // n_c of that class: no image comes again before all others of its
    class did.

    Args:
        labels: class of each image, from 0 to C - 1 without gaps; integers [n], n at least 1.
        seed: 0 <= seed < 2**64.

    Raises `ValueError` for values outside these ranges.
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
    """Lots of P different identities with K images each, for losses that compare within a batch.

    Lot i is the positions `[i*P*K, (i+1)*P*K)`, identity after identity, so a batch of whole lots
    holds P x K, and on ranks that divide P each rank has whole identities. A round is C // P lots;
    the C % P identities that would make no lot of their own are left out, others in each round.
    Identity j of round r is c = `permute(j, key(seed, CLASSES, r), C)`, and image k of the K is

    - for n_c >= K, where a pass has n_c // K lots of K: image number (r % (n_c // K))*K + k of
      pass r // (n_c // K), so the K images differ, and none comes again in a pass;
    - for n_c < K, where a lot takes ceil(K / n_c) passes: image number k % n_c of pass
      r*ceil(K / n_c) + k // n_c, so no image comes twice more often than another.

    Args:
        labels: class of each image, from 0 to C - 1 without gaps; integers [n], n at least 1.
        seed: 0 <= seed < 2**64.
        identities_per_batch: P, from 1 to C.
        images_per_identity: K, at least 1.

    Raises `ValueError` for values outside these ranges.
    """

    neighbours_follow = False

    def __init__(
        self,
        labels: NDArray[np.signedinteger[Any]],
        seed: int,
        *,
        identities_per_batch: int,
        images_per_identity: int,
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
        lots = self._classes.num_classes // identities_per_batch
        self._identities_per_round = lots * identities_per_batch

    def order(self, start: int, stop: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """See `data.order.orders.SampleOrder`."""
        wanted = self.images_per_identity
        identities_m, images_m = np.divmod(positions_between(start, stop), wanted)
        rounds_m, turns_m = np.divmod(identities_m, self._identities_per_round)
        classes_m = self._classes.at(rounds_m, turns_m)
        counts_m = self._classes.counts[classes_m]

        # One formula for both cases: a class of K or more has one pass a lot, a smaller one has
        # one lot a pass, and what belongs to the other case vanishes.
        lots_m = np.maximum(counts_m // wanted, 1)
        passes_of_lot_m = (counts_m + (wanted - 1)) // counts_m
        passes_m = rounds_m // lots_m * passes_of_lot_m + images_m // counts_m
        turns_m = rounds_m % lots_m * wanted + images_m % counts_m
        return self._classes.images(classes_m, passes_m, turns_m), passes_m


class _Classes:
    """The images of each class, and both shuffles: that of classes and that of a class's images.

    Attributes:
        num_classes: C.
        counts: images of each class, int64 [C].
    """

    def __init__(self, labels: NDArray[np.signedinteger[Any]], seed: int) -> None:
        make_keys(seed)  # refuses a wrong seed
        if len(labels) == 0:
            raise ValueError("labels are empty: a sampler needs at least 1 sample")
        self.seed = seed
        self.counts = np.bincount(labels)
        self.num_classes = len(self.counts)
        empty = np.flatnonzero(self.counts == 0)
        if len(empty):
            raise ValueError(
                f"no image has class {empty[0]} ({len(empty)} such classes below "
                f"{self.num_classes}): expected classes without gaps; set remap_labels"
            )
        self._firsts = np.cumsum(self.counts) - self.counts
        # Files are mostly written identity by identity: then a class's images need no table.
        ascending = bool((labels[1:] >= labels[:-1]).all())
        self._table = None if ascending else compact(np.argsort(labels, kind="stable"))

    def at(self, rounds_m: NDArray[np.int64], turns_m: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the class whose turn it is in each round."""
        return permute(turns_m, make_keys(self.seed, CLASSES, rounds_m), self.num_classes)

    def images(
        self,
        classes_m: NDArray[np.int64],
        passes_m: NDArray[np.int64],
        turns_m: NDArray[np.int64],
    ) -> NDArray[np.int64]:
        """Return the sample whose turn it is in each pass through its class."""
        keys_m = make_keys(self.seed, IMAGES, classes_m, passes_m)
        places_m = self._firsts[classes_m] + permute(turns_m, keys_m, self.counts[classes_m])
        return places_m if self._table is None else self._table[places_m].astype(np.int64)
