"""Writes a set of records in a random order, for reading it from end to end."""

import struct
from collections.abc import Callable
from contextlib import ExitStack
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

import numpy as np

from data.datasets.dataset import RecordDataset, open_records
from data.files import atomic_folder, check_space, writing
from data.order.orders import GlobalOrder
from data.progress import ProgressCallback, progress_counter
from data.records.format import Int64s, unpack_record
from data.tools.record_set import RecordSetWriter, Sharding, read_class_names, write_set_files

MEMORY_BYTES = 1 << 30

_LENGTH = struct.Struct("<I")
_MOST_BUCKETS = 500  # open files
_OVERHEAD = 300  # bytes of Python objects for each record in memory
_CHUNK = 1024  # records between reports


def shuffle_records(
    source: Path,  # see `data.records.shards.find_records`
    output: Path,  # a folder that does not exist or is empty
    *,
    seed: int,  # the order is that of epoch 0 of a run with this seed; 0 to 2**64 - 1
    sharding: Sharding | None = None,  # by default there is one file
    memory_bytes: int = MEMORY_BYTES,  # most of images in memory; the result does not depend on it
    remap_labels: bool = False,  # renumber the classes if the labels have gaps
    progress: ProgressCallback | None = None,
) -> tuple[int, int]:
    """Write the images of a set in a random order, in the plain layout.

    In two passes, each of which reads and writes from end to end, which suits every disk: the first
    distributes the images over buckets that fit in memory, one for each chunk of the new order; the
    second puts each bucket in order. Meanwhile that takes the set's size on the disk once more. A
    set that fits in memory is one bucket, which stays there. Progress counts each image twice.

    Returns the numbers of images and of classes. Raises `ValueError` for records that are
    damaged, an output that exists already, too little memory, and a disk that is too small or
    full.
    """
    images = open_records(source, remap_labels=remap_labels)
    names = read_class_names(images)
    order = GlobalOrder(len(images), seed).order(0, len(images))[0]
    bounds = _bucket_bounds(images.image_sizes()[order] + _OVERHEAD, memory_bytes)
    size = sum(path.stat().st_size for path in images.files)
    check_space(output, size * (1 if len(bounds) == 2 else 2))
    count = progress_counter(progress, 2 * len(order))
    with atomic_folder(output) as partial:
        with ExitStack() as stack, writing(partial):
            buckets = _open_buckets(len(bounds) - 1, partial, memory_bytes, stack)
            writer = RecordSetWriter(partial, total=len(order), layout="plain", sharding=sharding)
            _shuffle(images, order, bounds, buckets, stack.enter_context(writer), count)
        write_set_files(partial, images.num_classes, names, images.record(int(order[0])).image)
    return len(order), images.num_classes


def _bucket_bounds(sizes: Int64s, most: int) -> Int64s:
    """Cut the new order, of images of `sizes` int64 [n], into chunks of at most `most` bytes.

    Raises `ValueError` if those are too many, with enough bytes for fewer.
    """
    before = np.concatenate([[0], np.cumsum(sizes)])
    bounds = [0]
    while bounds[-1] < len(sizes):
        fitting = int(np.searchsorted(before, before[bounds[-1]] + most, side="right")) - 1
        bounds.append(max(fitting, bounds[-1] + 1))
    if len(bounds) - 1 > _MOST_BUCKETS:
        # Two consecutive buckets hold more than fits in one, otherwise they were one.
        enough = 2 * int(before[-1]) // (_MOST_BUCKETS - 1) + 1
        raise ValueError(
            f"memory_bytes is {most}: {len(bounds) - 1} buckets of that size, expected at most "
            f"{_MOST_BUCKETS}; allow at least {enough}"
        )
    return np.array(bounds)


def _open_buckets(count: int, folder: Path, memory_bytes: int, stack: ExitStack) -> list[IO[bytes]]:
    if count == 1:
        return [BytesIO()]
    buffer = max(4096, min(1 << 20, memory_bytes // count))
    return [stack.enter_context(TemporaryFile(buffering=buffer, dir=folder)) for _ in range(count)]


def _shuffle(
    images: RecordDataset,
    order: Int64s,
    bounds: Int64s,
    buckets: list[IO[bytes]],
    writer: RecordSetWriter,
    count: Callable[[int], None],
) -> None:
    """Distribute the images over the buckets in the order of the file, then write each bucket."""
    positions = np.empty_like(order)
    positions[order] = np.arange(len(order))
    stored = images.in_storage_order()
    bucket_of = np.searchsorted(bounds, positions[stored], side="right") - 1
    for start in range(0, len(stored), _CHUNK):
        rows = slice(start, start + _CHUNK)
        pairs = zip(stored[rows].tolist(), bucket_of[rows].tolist(), strict=True)
        for index, number in pairs:
            payload = images.payload(index)
            buckets[number].write(_LENGTH.pack(len(payload)))
            buckets[number].write(payload)
        images.release_pages()
        count(len(stored[rows]))
    for number, bucket in enumerate(buckets):
        members = stored[bucket_of == number]
        _write_in_order(images, members, positions[members], bucket, writer)
        count(len(members))


def _write_in_order(
    images: RecordDataset,
    members: Int64s,
    positions: Int64s,
    bucket: IO[bytes],
    writer: RecordSetWriter,
) -> None:
    """Write a bucket's images, which are in the order of `members`, by their `positions`."""
    bucket.seek(0)
    content = bucket.getbuffer() if isinstance(bucket, BytesIO) else memoryview(bucket.read())
    starts = [0]
    for _ in members:
        starts.append(starts[-1] + _LENGTH.size + _LENGTH.unpack_from(content, starts[-1])[0])
    for row in np.argsort(positions).tolist():
        record = unpack_record(content[starts[row] + _LENGTH.size : starts[row + 1]])
        writer.add_record(int(positions[row]), int(images.labels[members[row]]), record)
