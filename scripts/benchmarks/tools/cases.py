"""What each tool is measured beside: the least that any program would do for the same result."""

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

import numpy as np
import simplejpeg

from data.records.cache import open_images
from data.records.format import unpack_record
from data.records.reader import RecordFile
from data.tools.check.run import check_records
from data.tools.pack import PackOptions, pack_records

Item = TypeVar("Item")

_READ_AT_ONCE = 4 << 20  # bytes
_PARTS = 64  # of the work, shared out among the processes
_QUALITY = 95


@dataclass(frozen=True)
class Case:
    """A tool, and the bare loop beside it.

    Attributes:
        name: of the case.
        amount, unit: of work: megabytes or images.
        bare, tool: each does it once.
        before: called before each of them, out of the time that counts.
    """

    name: str
    amount: float
    unit: str
    bare: Callable[[], object]
    tool: Callable[[], object]
    before: Callable[[], object]


def scan_case(name: str, records: Path, *, cold: bool) -> Case:
    """Return the case of a check without decoding, from the disk or from the system's cache."""
    return Case(
        name,
        records.stat().st_size / 1e6,
        "MB",
        partial(_read, records),
        partial(check_records, [records], decode=False),
        partial(_evict if cold else _read, records),
    )


def decode_case(records: Path, workers: int) -> Case:
    """Return the case of a check that decodes every image."""
    offsets: list[int] = open_images(RecordFile(records)).offsets.tolist()
    return Case(
        "check_records",
        len(offsets),
        "images",
        partial(_in_processes, partial(_decode_records, records), offsets, workers),
        partial(check_records, [records], workers=workers),
        partial(_read, records),
    )


def keep_case(people: Path, scratch: Path, count: int) -> Case:
    """Return the case of packing files byte for byte."""
    return Case(
        "pack_records",
        count,
        "images",
        partial(_append_all, people, scratch / "all"),
        partial(pack_records, people, scratch / "packed", PackOptions()),
        partial(_clear, scratch),
    )


def encode_case(people: Path, scratch: Path, count: int, workers: int) -> Case:
    """Return the case of packing files that are encoded anew."""
    options = PackOptions(encoding="jpeg", quality=_QUALITY)
    return Case(
        "pack_records --encode jpeg",
        count,
        "images",
        partial(_encode_all, people, workers),
        partial(pack_records, people, scratch / "packed", options, workers=workers),
        partial(_clear, scratch),
    )


def _read(path: Path) -> None:
    buffer = bytearray(_READ_AT_ONCE)
    with path.open("rb", buffering=0) as file:
        while file.readinto(buffer):
            pass


def _evict(path: Path) -> None:
    """Have the system forget what it keeps of a file."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _clear(scratch: Path) -> None:
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    os.sync()


def _listed(people: Path) -> list[str]:
    paths: list[str] = []
    for folder in sorted(os.listdir(people)):
        with os.scandir(people / folder) as entries:
            paths += sorted(entry.path for entry in entries)
    return paths


def _append_all(people: Path, to: Path) -> None:
    with to.open("wb") as out:
        for path in _listed(people):
            with open(path, "rb") as file:
                out.write(file.read())
        out.flush()
        os.fsync(out.fileno())


def _encode_all(people: Path, workers: int) -> None:
    _in_processes(_encode_files, _listed(people), workers)


def _in_processes(
    function: Callable[[Sequence[Item]], None], items: Sequence[Item], workers: int
) -> None:
    """Do the work in forked processes, which start in milliseconds."""
    step = -(-len(items) // _PARTS)
    parts = [items[start : start + step] for start in range(0, len(items), step)]
    with get_context("fork").Pool(workers) as pool:
        pool.map(function, parts, chunksize=1)


def _decode_records(records: Path, offsets: Sequence[int]) -> None:
    file = RecordFile(records)
    pixels = np.empty((112, 112, 3), np.uint8)
    for offset in offsets:
        image = unpack_record(file.read(offset)).image
        simplejpeg.decode_jpeg(image, "RGB", buffer=pixels)


def _encode_files(paths: Sequence[str]) -> None:
    for path in paths:
        with open(path, "rb") as file:
            pixels = simplejpeg.decode_jpeg(file.read(), "RGB")
        simplejpeg.encode_jpeg(pixels, _QUALITY)
