"""Checks one `.rec` file but for what concerns several of them, labels and copies."""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from data.loading.workers import Workers
from data.records.format import FIRST, MAGIC, PART, SIZE_BITS, SIZE_MASK, WHOLE
from data.tools.check.content import Extras, Mask, RecordTable, find_images
from data.tools.check.index import check_index
from data.tools.check.scan import StretchRecords, scan_stretch
from data.tools.check.window import Span, Window, Words
from data.tools.findings import PLACES_AT_MOST, Findings, Place

STRETCH: Final = 1 << 23  # bytes: many for a disk, few for memory and a progress bar


def check_file(
    file: Path,
    size: int,
    decode: bool,
    workers: Workers,
    done: Callable[[int], None],
    findings: Findings,
) -> tuple[RecordTable, Mask]:
    """Return the whole records of a file, and which are images: bool [n].

    Args:
        file: the `.rec`, its `.idx` beside it or none.
        size: in bytes.
        decode: whether to decode the images.
        workers: do the work.
        done: called with the bytes done now and then.
        findings: what is wrong is added here.
    """
    spans = [(start, min(start + STRETCH, size)) for start in range(0, size, STRETCH)]
    damage: list[Span] = []
    columns = _Columns()
    position = 0  # where the next record should start
    for (_, stop), scanned in zip(spans, _scanned(file, spans, decode, workers), strict=True):
        # Those before are in the last record of the stretch before: a magic that its writer left.
        found = scanned.since(position)
        expected = np.append(position, found.ends)
        gaps = expected[:-1] < found.offsets
        damage += zip(expected[:-1][gaps].tolist(), found.offsets[gaps].tolist(), strict=True)
        position = int(expected[-1])
        columns.add(found)
        done(stop)
    if position < size:
        damage.append((position, size))
    findings.add("damage", (_describe(file, span, size) for span in damage), len(damage))
    findings.add("unreadable", [_unreadable(file, span) for span in columns.unreadable])
    names = ("offsets", "labels", "image_sizes", "fingerprints", "sizes")
    kept = {name: columns.take(name) for name in names}
    headed, offsets = kept["image_sizes"] >= 0, kept["offsets"]
    keys, named = check_index(file, size, offsets, columns.take("ids"), headed, damage, findings)
    table = RecordTable((file,), (0,), keys, **kept)
    bad = np.searchsorted(offsets, [offset for offset, _ in columns.undecodable])
    texts = dict(zip(bad.tolist(), (text for _, text in columns.undecodable), strict=True))
    findings.add("undecodable", table.places(bad, texts.__getitem__), columns.undecodable_count)
    extras = Extras(*(columns.take(name) for name in ("empty", "empty_flags", "empty_labels")))
    return table, find_images(table, extras, named, findings)


def _scanned(
    file: Path, spans: list[Span], decode: bool, workers: Workers
) -> Iterator[StretchRecords]:
    """Yield the records of each of the `spans` of a file.

    It is read here, from end to end, whatever the number of threads; other processes have to read
    for themselves, as no memory goes there.
    """
    if workers.in_processes:
        yield from workers.in_order(partial(_scan_span, file, decode), spans)
        return
    with file.open("rb", buffering=0) as opened:
        spare: list[Words] = []
        windows = (Window(opened.fileno(), *span, spare) for span in spans)
        yield from workers.in_order(partial(scan_stretch, decode=decode), windows)


def _scan_span(file: Path, decode: bool, span: Span) -> StretchRecords:
    with file.open("rb", buffering=0) as opened:
        return scan_stretch(Window(opened.fileno(), *span, []), decode=decode)


class _Columns:
    """Gathers what is kept of the stretches of a file, as little as will do.

    Attributes:
        undecodable: offset and fault of the first images that cannot be decoded.
        undecodable_count: of them all.
        unreadable: spans of bytes that the disk refused to give.
    """

    def __init__(self) -> None:
        self._blocks: dict[str, list[npt.NDArray[Any]]] = {}
        self._count = 0
        self.undecodable: list[tuple[int, str]] = []
        self.undecodable_count = 0
        self.unreadable: list[Span] = []

    def add(self, found: StretchRecords) -> None:
        """Add what a stretch holds."""
        empty = np.flatnonzero(found.image_sizes == 0)
        columns: dict[str, npt.NDArray[Any]] = {
            "offsets": found.offsets,
            "ids": found.ids,
            "labels": found.labels[:, 0].copy(),
            "image_sizes": np.maximum(found.image_sizes, -1).astype(np.int32),
            "fingerprints": found.fingerprints,
            "sizes": found.sizes,
            "empty": empty + self._count,
            "empty_flags": found.flags[empty],
            "empty_labels": found.labels[empty],
        }
        for name, column in columns.items():
            self._blocks.setdefault(name, []).append(column)
        self._count += len(found.offsets)
        self.undecodable += islice(found.undecodable, PLACES_AT_MOST - len(self.undecodable))
        self.undecodable_count += len(found.undecodable)
        self.unreadable += found.unreadable

    def take(self, name: str) -> npt.NDArray[Any]:
        """Return a column of all stretches, once: its parts are forgotten."""
        return np.concatenate(self._blocks.pop(name))


def _unreadable(file: Path, span: Span) -> Place:
    text = f"{span[1] - span[0]} bytes cannot be read, and were taken for zeros"
    return Place(str(file), text, offset=span[0])


def _describe(file: Path, span: Span, size: int) -> Place:
    """Say what is the matter with bytes that belong to no whole record."""
    start, stop = span
    with file.open("rb") as stream:
        stream.seek(start)
        content = stream.read(PART.size)
    magic, word = PART.unpack(content.ljust(PART.size, b"\0"))
    claimed = start + PART.size + (word & SIZE_MASK)
    if magic != MAGIC:
        fault = f"no record starts here: found {content!r}"
    elif word >> SIZE_BITS > FIRST:
        fault = f"a part with flag {word >> SIZE_BITS} that continues no record"
    elif claimed > size:
        fault = f"the record should end at {claimed}, and the file ends at {size}"
    elif word >> SIZE_BITS == WHOLE:
        fault = f"the record should end at {claimed}, and the next one starts before"
    else:
        fault = "a record in parts of which not all are here"
    after = "to the end of the file" if stop == size else f"up to the next record at {stop}"
    return Place(str(file), f"{fault}; {stop - start} bytes {after}", offset=start)
