"""Which records of a file are images, and the class of each.

Two layouts exist. In the *identity* layout record 0 carries the labels `[n + 1, end]` and no
image: the images are the keys 1 … n, and each key from n + 1 to end - 1 carries the range of keys
of one identity. Without such a record every key is an image, 0 included. In both an image's class
is the first label in its own header.
"""

import logging
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from data.records.format import HEADER, Headers, RecordError, unpack_record
from data.records.index import RecordIndex
from data.records.reader import Keys, RecordFile

logger = logging.getLogger(__name__)

# Labels are float32: from 2**24 on neighbouring whole numbers are stored as the same value.
INEXACT_FROM = 1 << 24
# Up to here every image's header is read when a file is opened. Beyond, in the identity layout,
# three of each identity are: reading 17 million headers from a cold disk takes minutes.
HEADERS_AT_MOST = 1_000_000
# So many identities vouch for the key ranges of a remote file, where a look at each would be a
# request: a share of 2% whose ranges mislead is noticed with 99.8%. What is not noticed then is
# refused when an image is read, which compares its own label.
PROBED_WHEN_REMOTE = 300


@dataclass(frozen=True)
class ImageTable:
    """The n images of a file.

    Attributes:
        keys: int64 [n], or a range where they follow one another.
        offsets: of each image's record in bytes; int64 [n].
        labels: the class of each as the file has it; int32 [n], from 0 to 2**24 - 1.
        has_header: whether the file is in the identity layout.
    """

    keys: Keys
    offsets: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int32]
    has_header: bool


def read_images(
    file: RecordFile, index: RecordIndex, *, headers_at_most: int = HEADERS_AT_MOST
) -> ImageTable:
    """Find the images of `file` and their labels, in the order of the index.

    Raises `RecordError`, naming file, key and offset, for a record without an image, for a label
    that is no class (not whole, negative, too large to be exact), and for a header record that
    promises other keys than there are.
    """
    by_key = index.sorted()
    bounds = _key_bounds(file, by_key)
    if bounds is None:
        labels = _own_labels(file, index.keys, index.offsets)
        return ImageTable(_as_range(index.keys), index.offsets, labels, has_header=False)
    stop, end = bounds
    images, ranges = by_key.between(1, stop), by_key.between(stop, end)
    if len(images.keys) != stop - 1:
        missing = np.flatnonzero(images.keys != np.arange(1, len(images.keys) + 1))
        key = int(missing[0]) + 1 if len(missing) else len(images.keys) + 1
        raise RecordError(
            f"{file.path}: the header record promises the images 1 … {stop - 1}, and the index "
            f"has no key {key} ({len(images.keys)} of them are there); copy or make the pair again"
        )
    unused = len(index.keys) - 1 - len(images.keys) - len(ranges.keys)
    if unused:
        text = "%s: %d records have keys beyond %d, the end that the header record states: left out"
        logger.warning(text, file.path, unused, end - 1)
    keys = range(1, stop)
    if len(keys) <= headers_at_most and not (file.is_remote and len(ranges.keys)):
        labels = _own_labels(file, keys, images.offsets)
    else:
        labels = _range_labels(file, images.offsets, ranges)
    return ImageTable(keys, images.offsets, labels, has_header=True)


def _as_range(keys: npt.NDArray[np.int64]) -> Keys:
    """Return keys that follow one another as a range: 8 bytes an image less."""
    return range(int(keys[0]), int(keys[-1]) + 1) if (np.diff(keys) == 1).all() else keys


def _key_bounds(file: RecordFile, by_key: RecordIndex) -> tuple[int, int] | None:
    """Return the keys after the last image and the last identity, None without header record."""
    if by_key.keys[0] != 0:
        return None
    payload = file.read(int(by_key.offsets[0]), 0)
    if len(payload) != HEADER.size + 8 or HEADER.unpack_from(payload)[0] != 2:
        return None  # it is not made of a header and two labels
    labels = unpack_record(payload).labels
    if not np.isfinite(labels).all():
        return None
    stop, end = (int(label) for label in labels)
    if not 1 < stop <= end < 1 << 62:  # beyond, no key is a number that an index can hold
        return None
    # A float32 this large is off by up to half its distance to the next one.
    slack = int(np.spacing(labels[1])) if end >= INEXACT_FROM else 0
    if stop >= INEXACT_FROM:
        stop = _first_without_image(file, by_key.between(stop - slack, stop + slack + 1), stop)
    return stop, end + slack


def _first_without_image(file: RecordFile, nearby: RecordIndex, otherwise: int) -> int:
    """Return the lowest key of `nearby` whose record has no image."""
    empty = np.flatnonzero(file.headers(nearby.offsets, nearby.keys).image_sizes == 0)
    return int(nearby.keys[empty[0]]) if len(empty) else otherwise


def _own_labels(
    file: RecordFile, keys: Keys, offsets: npt.NDArray[np.int64]
) -> npt.NDArray[np.int32]:
    """Return the classes in the images' own headers."""
    labels = np.empty(len(keys), np.int32)
    for rows, headers in file.headers_in_chunks(offsets, keys):
        _check_images(file, headers, keys[rows], offsets[rows])
        labels[rows] = headers.labels[:, 0]
    return labels


def _check_images(
    file: RecordFile, headers: Headers, keys: Keys, offsets: npt.NDArray[np.int64]
) -> None:
    label = headers.labels[:, 0]
    with np.errstate(invalid="ignore"):
        faults = {
            "its payload is too short for a header": headers.image_sizes < 0,
            "it holds no image, only a header": headers.image_sizes == 0,
            "its label {label} is no whole number": ~(np.floor(label) == label),
            "its label {label} is negative": label < 0,
            f"its label {{label:.0f}} is {INEXACT_FROM} or more, where labels stored as float32 "
            "run into each other": label >= INEXACT_FROM,
        }
    bad = np.logical_or.reduce(list(faults.values()))
    if not bad.any():
        return
    row = int(np.argmax(bad))
    fault = next(text for text, rows in faults.items() if rows[row])
    raise RecordError(
        f"{file.where(int(offsets[row]), int(keys[row]))}: {fault.format(label=label[row])} "
        f"({int(bad.sum())} records of {len(bad)} are no good); expected an image with a class "
        "number from 0 on: leave it out, or write the file again with class numbers"
    )


def _range_labels(
    file: RecordFile, offsets: npt.NDArray[np.int64], ranges: RecordIndex
) -> npt.NDArray[np.int32]:
    """Return the classes of the images 1 … n, most of them from their identities' key ranges.

    A range is believed if its first, middle and last image have the same class in their own
    headers. All other images are read one by one, as are those with keys that a float32 cannot
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
    file: RecordFile,
    offsets: npt.NDArray[np.int64],
    starts: npt.NDArray[np.int64],
    stops: npt.NDArray[np.int64],
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_]]:
    """Return the class of each of m ranges of keys, int32 [m], and whether to believe it."""
    if file.is_remote and len(starts) > PROBED_WHEN_REMOTE:
        some = np.linspace(0, len(starts) - 1, PROBED_WHEN_REMOTE).astype(np.int64)
        classes, agree = _probed_classes(file, offsets, starts[some], stops[some])
        if agree.all() and (classes == some).all():
            return np.arange(len(starts), dtype=np.int32), np.ones(len(starts), np.bool_)
    return _probed_classes(file, offsets, starts, stops)


def _probed_classes(
    file: RecordFile,
    offsets: npt.NDArray[np.int64],
    starts: npt.NDArray[np.int64],
    stops: npt.NDArray[np.int64],
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_]]:
    """Return the class of each range's first image, and whether its middle and last have it too."""
    keys = np.concatenate([starts, (starts + stops) // 2, stops - 1])
    first, middle, last = _own_labels(file, keys, offsets[keys - 1]).reshape(3, -1)
    return first, (first == middle) & (first == last)
