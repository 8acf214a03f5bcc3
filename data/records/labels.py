"""Which records of a file are images, and the class of each.

There are two layouts. In the *identity* layout record 0 has the labels `[n + 1, end]` and no
image: the images have the keys 1 … n, and each record with a key from n + 1 to end - 1 has the
range of keys of one identity as its labels. Without such a record 0, every record is an image. In
both layouts an image's class is the first label in its own header.
"""

import logging
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from data.records.format import HEADER, Headers, Int32s, Int64s, RecordError, unpack_record
from data.records.index import RecordIndex
from data.records.reader import Keys, RecordFile

logger = logging.getLogger(__name__)

# Labels are float32: from 2**24 on, neighbouring whole numbers are stored as the same value.
INEXACT_FROM: Final = 1 << 24
# Up to this number of images, every header is read when a file is opened. Beyond, in the identity
# layout, three per identity are: reading 17 million headers from a cold disk takes minutes.
HEADERS_AT_MOST: Final = 1_000_000
# Identities of a remote file whose key ranges are checked, because each check costs a request. If
# the ranges of 2% of the identities are wrong, that is detected with a probability of 99.8%. What
# is not detected then is refused when an image is read, because its own label is compared.
PROBED_WHEN_REMOTE: Final = 300


@dataclass(frozen=True)
class ImageTable:
    """The n images of a file."""

    keys: Keys  # a range if they are consecutive
    offsets: Int64s  # of each image's record in bytes
    labels: Int32s  # the classes as stored in the file, from 0 to 2**24 - 1
    has_header: bool  # whether the file is in the identity layout


def read_images(
    file: RecordFile, index: RecordIndex, *, headers_at_most: int = HEADERS_AT_MOST
) -> ImageTable:
    """Find the images of `file` and their labels, in the order of the index.

    Raises `RecordError`, naming file, key and offset, for a record without an image, for a label
    that is not a class (not whole, negative, too large to be exact), and for a header record that
    states keys which the index does not have.
    """
    by_key = index.sorted()
    bounds = key_bounds(file, by_key)
    if bounds is None:
        labels = _own_labels(file, index.keys, index.offsets)
        return ImageTable(_as_range(index.keys), index.offsets, labels, has_header=False)
    stop, end = bounds
    images, ranges = by_key.between(1, stop), by_key.between(stop, end)
    if len(images.keys) != stop - 1:
        missing = np.flatnonzero(images.keys != np.arange(1, len(images.keys) + 1))
        key = int(missing[0]) + 1 if len(missing) else len(images.keys) + 1
        raise RecordError(
            f"{file.path}: the header record states the images 1 … {stop - 1}, but the index has "
            f"no key {key} ({len(images.keys)} of them exist); copy or make the pair again"
        )
    unused = len(index.keys) - 1 - len(images.keys) - len(ranges.keys)
    if unused:
        text = "%s: ignoring %d records with keys beyond %d, the end that the header record states"
        logger.warning(text, file.path, unused, end - 1)
    keys = range(1, stop)
    if len(keys) <= headers_at_most and not (file.is_remote and len(ranges.keys)):
        labels = _own_labels(file, keys, images.offsets)
    else:
        labels = _range_labels(file, images.offsets, ranges)
    return ImageTable(keys, images.offsets, labels, has_header=True)


def _as_range(keys: Int64s) -> Keys:
    """Return consecutive keys as a range, which saves 8 bytes per image."""
    return range(int(keys[0]), int(keys[-1]) + 1) if (np.diff(keys) == 1).all() else keys


def key_bounds(file: RecordFile, by_key: RecordIndex) -> tuple[int, int] | None:
    """Return the first key after the images and after the identities; None without a header.

    `by_key` is sorted; damaged records may be missing.
    """
    if by_key.keys[0] != 0:
        return None
    payload = file.read(int(by_key.offsets[0]), 0)
    if len(payload) != HEADER.size + 8 or HEADER.unpack_from(payload)[0] != 2:
        return None  # not a header with two labels and nothing else
    labels = unpack_record(payload).labels
    if not np.isfinite(labels).all():
        return None
    stop, end = (int(label) for label in labels)
    if not 1 < stop <= end < 1 << 62:  # keys beyond do not fit the index
        return None
    # A float32 this large is off by up to half the distance to the next one.
    slack = int(np.spacing(labels[1])) if end >= INEXACT_FROM else 0
    if stop >= INEXACT_FROM:
        nearby = by_key.between(stop - slack, stop + slack + 1)
        empty = np.flatnonzero(file.headers(nearby.offsets, nearby.keys).image_sizes == 0)
        stop = int(nearby.keys[empty[0]]) if len(empty) else stop  # the first record without image
    return stop, end + slack


def _own_labels(file: RecordFile, keys: Keys, offsets: Int64s) -> Int32s:
    """Return the classes in the images' own headers; raise `RecordError` for bad ones."""
    labels = np.empty(len(keys), np.int32)
    for rows, headers in file.headers_in_chunks(offsets, keys):
        _check_images(file, headers, keys[rows], offsets[rows])
        labels[rows] = headers.labels[:, 0]
    return labels


def _check_images(file: RecordFile, headers: Headers, keys: Keys, offsets: Int64s) -> None:
    label = headers.labels[:, 0]
    with np.errstate(invalid="ignore"):
        faults = {
            "its payload is too short for a header": headers.image_sizes < 0,
            "it has a header but no image": headers.image_sizes == 0,
            "its label {label} is not a whole number": ~(np.floor(label) == label),
            "its label {label} is negative": label < 0,
            f"its label {{label:.0f}} is {INEXACT_FROM} or more, where float32 cannot tell "
            "neighbouring labels apart": label >= INEXACT_FROM,
        }
    bad = np.logical_or.reduce(list(faults.values()))
    if not bad.any():
        return
    row = int(np.argmax(bad))
    fault = next(text for text, rows in faults.items() if rows[row])
    raise RecordError(
        f"{file.where(int(offsets[row]), int(keys[row]))}: {fault.format(label=label[row])} "
        f"({int(bad.sum())} bad records of {len(bad)}); expected an image with a class number "
        "from 0 on: leave it out, or write the file again with class numbers"
    )


def _range_labels(file: RecordFile, offsets: Int64s, ranges: RecordIndex) -> Int32s:
    """Return the classes of the images 1 … n, most of them from their identities' key ranges.

    A range is trusted if its first, middle and last image have the same class in their own
    headers. The headers of all other images are read, as are those with keys that a float32 cannot
    hold exactly.
    """
    headers = file.headers(ranges.offsets, ranges.keys)
    are_ranges = (headers.flags == 2) & (headers.image_sizes == 0)
    are_ranges &= (headers.labels >= 1).all(axis=1) & (headers.labels < INEXACT_FROM).all(axis=1)
    starts, stops = np.sort(headers.labels[are_ranges].astype(np.int64), axis=0).T
    inside = (starts < stops) & (stops <= len(offsets) + 1)
    starts, stops = starts[inside], stops[inside]
    labels = np.full(len(offsets), -1, np.int32)
    if (starts[1:] >= stops[:-1]).all():
        classes, agree = _range_classes(file, offsets, starts, stops)
        starts, stops = starts[agree], stops[agree]
        steps = np.zeros(len(offsets) + 1, np.int8)
        steps[starts - 1] += 1
        steps[stops - 1] -= 1
        covered = np.cumsum(steps[:-1], dtype=np.int8).view(bool)
        labels[covered] = np.repeat(classes[agree], stops - starts)
    rest = np.flatnonzero(labels < 0)
    labels[rest] = _own_labels(file, rest + 1, offsets[rest])
    text = "%s: %d of %d labels come from the identities' key ranges, %d from the images' headers"
    logger.info(text, file.path, len(labels) - len(rest), len(labels), len(rest))
    return labels


def _range_classes(
    file: RecordFile, offsets: Int64s, starts: Int64s, stops: Int64s
) -> tuple[Int32s, npt.NDArray[np.bool_]]:
    """Return the class of each of m ranges of keys, int32 [m], and whether to trust it, bool [m].

    Of a remote file a sample is read first; if it shows that the ranges are those of the classes
    0, 1, 2 …, no others are.
    """
    if file.is_remote and len(starts) > PROBED_WHEN_REMOTE:
        sample = np.linspace(0, len(starts) - 1, PROBED_WHEN_REMOTE).astype(np.int64)
        classes, agree = _probe(file, offsets, starts[sample], stops[sample])
        if agree.all() and (classes == sample).all():
            return np.arange(len(starts), dtype=np.int32), np.ones(len(starts), np.bool_)
    return _probe(file, offsets, starts, stops)


def _probe(
    file: RecordFile, offsets: Int64s, starts: Int64s, stops: Int64s
) -> tuple[Int32s, npt.NDArray[np.bool_]]:
    """Return the class of each range's first image, and whether its middle and last agree."""
    keys = np.concatenate([starts, (starts + stops) // 2, stops - 1])
    first, middle, last = _own_labels(file, keys, offsets[keys - 1]).reshape(3, -1)
    return first, (first == middle) & (first == last)
