"""What each tool is compared with: the least that any program would do for the same result."""

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

from data.records.format import unpack_record
from data.records.reader import RecordFile
from data.tools.check.run import check_records
from data.tools.pack import PackOptions, pack_records
from data.tools.record_set import RecordSet

Item = TypeVar("Item")

_READ_AT_ONCE = 4 << 20  # bytes
_PARTS = 64  # of the work, distributed over the processes
_QUALITY = 95


@dataclass(frozen=True)
class ToolCase:
    """A tool, and the bare loop that bounds it."""

    name: str
    amount: float  # of work, in `unit`
    unit: str  # "MB" or "images"
    bare: Callable[[], object]  # does the work once, as does `tool`
    tool: Callable[[], object]
    before: Callable[[], object]  # called before each of them, not timed


def tool_cases(
    people: Path, records: Path, scratch: Path, workers: int, large: Path | None = None
) -> list[ToolCase]:
    """Return the cases, in the order of the table.

    `people` is a folder of images to pack, `records` a `.rec` file of the same images, `large` a
    larger one to check without decoding, `scratch` a folder that is emptied and written to.
    """
    offsets: list[int] = RecordSet(records).tables[0].offsets.tolist()
    packed, options = scratch / "packed", PackOptions(encoding="jpeg", quality=_QUALITY)
    return [
        _scan_case("check_records --no-decode", records, _evict),
        *([] if large is None else [_scan_case("the same, a larger file", large, _evict)]),
        _scan_case("the same, in the cache", records, _read),
        ToolCase(
            "check_records",
            len(offsets),
            "images",
            partial(_in_processes, partial(_decode_records, records), offsets, workers),
            partial(check_records, [records], workers=workers),
            partial(_read, records),
        ),
        ToolCase(
            "pack_records",
            len(offsets),
            "images",
            partial(_append_all, people, scratch / "all"),
            partial(pack_records, people, packed, PackOptions()),
            partial(_clear, scratch),
        ),
        ToolCase(
            "pack_records --encode jpeg",
            len(offsets),
            "images",
            partial(_encode_all, people, workers),
            partial(pack_records, people, packed, options, workers=workers),
            partial(_clear, scratch),
        ),
    ]


def _scan_case(name: str, records: Path, before: Callable[[Path], None]) -> ToolCase:
    """Return the case of a check without decoding; `before` decides what the cache holds."""
    bare, tool = partial(_read, records), partial(check_records, [records], decode=False)
    return ToolCase(name, records.stat().st_size / 1e6, "MB", bare, tool, partial(before, records))


def _read(path: Path) -> None:
    buffer = bytearray(_READ_AT_ONCE)
    with path.open("rb", buffering=0) as file:
        while file.readinto(buffer):
            pass


def _evict(path: Path) -> None:
    """Drop a file from the system's cache."""
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


def _append_all(people: Path, target: Path) -> None:
    with target.open("wb") as out:
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
