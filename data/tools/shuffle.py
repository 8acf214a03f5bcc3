"""A set of records in a random order, for reading it from end to end."""

import struct
from collections.abc import Callable
from contextlib import ExitStack
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

import numpy as np
import numpy.typing as npt

from data.files import writing
from data.order.orders import GlobalOrder
from data.records.format import unpack_record
from data.tools.pack_job import check_space, made_at_once
from data.tools.record_set import Cut, RecordSet, RecordSetWriter, write_set_files

MEMORY_BYTES = 1 << 30

_LENGTH = struct.Struct("<I")
_MOST_PILES = 500  # open files
_OVERHEAD = 300  # bytes of Python objects for each record in memory


def shuffle_records(
    source: Path,
    output: Path,
    *,
    seed: int,
    cut: Cut | None = None,
    memory_bytes: int = MEMORY_BYTES,
    remap_labels: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[int, int]:
    """Write the images of a set in a random order, in the plain layout.

    In two passes, each of which reads and writes from end to end, as every disk likes it: the
    first deals the images out into piles that fit in memory, each the place of one stretch of the
    new order; the second puts each pile in order. That takes the set's size on the disk once more
    for the while. A set that fits in memory is one pile, which never leaves it.

    Args:
        source: see `data.records.shards.find_records`.
        output: a folder that does not exist or is empty.
        seed: names the order, which is that of epoch 0 of a run with this seed; 0 to 2**64 - 1.
        cut: where one file ends and the next begins; by default there is one file.
        memory_bytes: most bytes of images in memory; the result does not depend on it.
        remap_labels: number the classes afresh where the labels have gaps.
        progress: called with (images moved, moves in all) now and then.

    Returns the numbers of images and of classes. Raises `ValueError` for records that are
    damaged, an output that is there already, too little memory, and a disk that is too small or
    full.
    """
    images = RecordSet(source, remap_labels=remap_labels)
    order = GlobalOrder(len(images), seed).order(0, len(images))[0]
    sizes = images.sizes()[order] + _OVERHEAD
    bounds = _pile_bounds(sizes, memory_bytes)
    size = sum(path.stat().st_size for path in images.paths)
    check_space(output, size * (1 if len(bounds) == 2 else 2))
    if len(bounds) - 1 > _MOST_PILES:
        # Two piles that follow each other are more than one can hold, else they were one.
        enough = 2 * int(sizes.sum()) // (_MOST_PILES - 1) + 1
        raise ValueError(
            f"memory_bytes is {memory_bytes}: {len(bounds) - 1} piles of that size, expected at "
            f"most {_MOST_PILES}; allow at least {enough}"
        )
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    done = 0

    def count(moved: int) -> None:
        nonlocal done
        done += moved
        images.release_pages()
        if progress is not None:
            progress(done, 2 * len(order))

    with made_at_once(output) as partial:
        with ExitStack() as stack, writing(partial):
            in_file = images.in_file_order()
            pile_of = np.searchsorted(bounds, place[in_file], side="right") - 1
            piles = _open_piles(len(bounds) - 1, partial, memory_bytes, stack)
            _deal(images, in_file, pile_of, piles, count)
            writer = stack.enter_context(
                RecordSetWriter(partial, total=len(order), layout="plain", cut=cut or Cut())
            )
            for number, pile in enumerate(piles):
                members = in_file[pile_of == number]
                _put_in_order(images, members, place[members], pile, writer)
                count(len(members))
        write_set_files(partial, images.num_classes, images.names, images.read(int(order[0])).image)
    return len(order), images.num_classes


def _pile_bounds(sizes: npt.NDArray[np.int64], most: int) -> npt.NDArray[np.int64]:
    """Cut the new order, of images of `sizes` int64 [n], into stretches of at most `most` bytes."""
    before = np.concatenate([[0], np.cumsum(sizes)])
    bounds = [0]
    while bounds[-1] < len(sizes):
        fitting = int(np.searchsorted(before, before[bounds[-1]] + most, side="right")) - 1
        bounds.append(max(fitting, bounds[-1] + 1))
    return np.array(bounds)


def _open_piles(count: int, folder: Path, memory_bytes: int, stack: ExitStack) -> list[IO[bytes]]:
    if count == 1:
        return [BytesIO()]
    buffer = max(4096, min(1 << 20, memory_bytes // count))
    return [stack.enter_context(TemporaryFile(buffering=buffer, dir=folder)) for _ in range(count)]


def _deal(
    images: RecordSet,
    in_file: npt.NDArray[np.int64],
    pile_of: npt.NDArray[np.int64],
    piles: list[IO[bytes]],
    count: Callable[[int], None],
) -> None:
    """Append the image records, in the order of the file, to their piles."""
    for done, (index, number) in enumerate(
        zip(in_file.tolist(), pile_of.tolist(), strict=True), start=1
    ):
        payload = images.payload(index)
        piles[number].write(_LENGTH.pack(len(payload)))
        piles[number].write(payload)
        if done % 1024 == 0 or done == len(in_file):
            count(done - (done - 1) // 1024 * 1024)


def _put_in_order(
    images: RecordSet,
    members: npt.NDArray[np.int64],
    places: npt.NDArray[np.int64],
    pile: IO[bytes],
    writer: RecordSetWriter,
) -> None:
    """Write a pile's images, dealt in the order of `members`, by their `places` in the whole."""
    pile.seek(0)
    content = pile.getbuffer() if isinstance(pile, BytesIO) else memoryview(pile.read())
    starts: list[int] = []
    at = 0
    for _ in range(len(members)):
        starts.append(at)
        at += _LENGTH.size + _LENGTH.unpack_from(content, at)[0]
    starts.append(at)
    for row in np.argsort(places).tolist():
        record = unpack_record(content[starts[row] + _LENGTH.size : starts[row + 1]])
        writer.add_record(int(places[row]), int(images.labels[members[row]]), record)
