"""Checks every record of `.rec` files: framing, index, labels, images, copies.

This thread walks through a file from end to end, chunk by chunk; workers decode the headers and
images of a chunk. Then the columns of all records are checked together. Memory is about 120 bytes
per record, 2 GB for 17 million.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Final

import numpy as np

from data.loading.tuning import usable_cores
from data.loading.workers import Workers
from data.progress import ProgressCallback, progress_counter
from data.records.format import (
    FIRST,
    MAGIC,
    PART,
    SIZE_BITS,
    SIZE_MASK,
    WHOLE,
    ByteRange,
    RecordError,
)
from data.tools.check.content import (
    Mask,
    check_labels,
    check_sizes,
    find_images,
    possible_copies,
    report_copies,
)
from data.tools.check.index import check_index
from data.tools.check.kinds import KINDS
from data.tools.check.records import RecordTable, examine, image_digests
from data.tools.check.scan import DamagedFile
from data.tools.findings import PLACES_AT_MOST, Findings, Place

CHUNK: Final = 1 << 23  # bytes: many for a disk, few for memory and a progress bar
_DIGESTED_AT_ONCE: Final = 256  # images
# Decoding holds the interpreter's lock for less than a tenth of its time: more threads than this
# would wait for each other, and a job so long that it needs more cores can wait for processes to
# start.
_THREADS: Final = 8


@dataclass(frozen=True)
class CheckResult:
    """What was checked, and what was found."""

    files: tuple[Path, ...]  # `.rec` files
    size: int  # of them all in bytes
    records: int  # whole ones
    images: int  # that training would read
    identities: int  # different labels of those
    decoded: bool  # whether images were
    seconds: float  # that it took
    findings: Findings  # see `data.tools.check.kinds.KINDS`

    @property
    def clean(self) -> bool:
        """Whether there are neither errors nor warnings."""
        return self.findings.clean

    def to_dict(self) -> dict[str, Any]:
        """Return everything for JSON."""
        counts = ("size", "records", "images", "identities", "decoded", "seconds", "clean")
        return {
            "files": [str(file) for file in self.files],
            **{name: getattr(self, name) for name in counts},
            "findings": self.findings.to_list(),
        }

    def text(self) -> str:
        """Return everything for a person."""
        files = str(self.files[0]) if len(self.files) == 1 else f"{len(self.files)} files"
        decoded = "every image decoded" if self.decoded else "images not decoded"
        head = (
            f"{files}: {self.records:,} records, {self.images:,} images of {self.identities:,} "
            f"identities, {self.size / 1e6:,.1f} MB, {decoded}, {self.seconds:.1f} s"
        )
        end = "" if self.clean else "\n\nThere are findings to act on."
        found = self.findings.text()
        return f"{head}\n\n{found}{end}" if found else f"{head}\n\nNothing was found."


def check_records(
    files: Iterable[Path],
    *,
    decode: bool = True,
    workers: int | None = None,
    progress: ProgressCallback | None = None,
) -> CheckResult:
    """Check every record of `files`, which together are one dataset, and go on past damage.

    Each has its `.idx` next to it, or none. `decode` says whether to decode every image, as
    training does. `workers` are threads, or processes above 8; by default one per core that this
    process may use. With 1 the work is done in this thread. Progress counts bytes.

    Raises `RecordError` for what is no RecordIO file at all, `OSError` for what cannot be opened,
    and `ValueError` for fewer than one worker, or one that was killed.
    """
    start = time.perf_counter()
    paths = tuple(files)
    resolved = [path.resolve() for path in paths]
    for number, path in enumerate(resolved):
        if path in resolved[:number]:
            raise RecordError(f"{paths[number]} is named twice: expected every file once")
    opened = [DamagedFile(path) for path in paths]
    workers = usable_cores() if workers is None else workers
    if workers < 1:
        raise ValueError(f"workers is {workers}: expected at least 1")
    findings, tables, masks = Findings(KINDS), [], []
    size = sum(file.size for file in opened)
    done = progress_counter(progress, size)
    most = workers if decode else min(workers, 2)  # the walk takes longer than the rest
    count = max(1, min(most, -(-size // CHUNK)))
    with Workers(count, processes=count > _THREADS) as working:
        for file in opened:
            table, images = _check_file(file, decode, working, done, findings)
            tables.append(table)
            masks.append(images)
    table = RecordTable.joined(tables)
    images = check_labels(table, np.concatenate(masks), findings)
    check_sizes(table, findings)
    rows = possible_copies(table, images)
    slices = np.split(rows, range(_DIGESTED_AT_ONCE, len(rows), _DIGESTED_AT_ONCE))
    with Workers(min(workers, _THREADS), processes=False) as threads:
        digests = threads.in_order(partial(image_digests, table=table, files=opened), slices)
        report_copies(table, rows, chain.from_iterable(digests), findings)
    identities = int(np.count_nonzero(np.bincount(table.labels[images, 0].astype(np.int64))))
    _check_property(paths, identities, findings)
    return CheckResult(
        files=paths,
        size=size,
        records=len(table.keys),
        images=int(np.count_nonzero(images)),
        identities=identities,
        decoded=decode,
        seconds=time.perf_counter() - start,
        findings=findings,
    )


def _check_file(
    file: DamagedFile,
    decode: bool,
    workers: Workers,
    done: Callable[[int], None],
    findings: Findings,
) -> tuple[RecordTable, Mask]:
    """Return the whole records of a file, and which are images: bool [n].

    Calls `done` with the bytes of each chunk.
    """
    parts: list[RecordTable] = []
    faults: dict[int, str] = {}
    offsets = file.whole_records(CHUNK)
    for part, in_part in workers.in_order(partial(examine, file=file, decode=decode), offsets):
        parts.append(part)
        if len(faults) < PLACES_AT_MOST:
            faults |= in_part
        file.release_pages()
        done(min(CHUNK, file.size - CHUNK * (len(parts) - 1)))
    table = RecordTable.joined(parts)
    findings.add("damage", (_describe(file, span) for span in file.damage), len(file.damage))
    unreadable = (
        Place(str(file.path), f"{stop - start} bytes cannot be read", offset=start)
        for start, stop in file.unreadable
    )
    findings.add("unreadable", unreadable, len(file.unreadable))
    named = check_index(file, table, findings)
    if decode:
        bad = np.flatnonzero((table.image_sizes > 0) & (table.sizes[:, 0] == 0))
        table.report("undecodable", bad, lambda row: faults[int(table.offsets[row])], findings)
    return table, find_images(file, table, named, findings)


def _describe(file: DamagedFile, damage: ByteRange) -> Place:
    """Describe bytes that belong to no whole record."""
    start, stop = damage
    content = file.start_of(start)
    magic, word = PART.unpack(content.ljust(PART.size, b"\0"))
    claimed = start + PART.size + (word & SIZE_MASK)
    if magic != MAGIC:
        fault = f"no record starts here: found {content!r}"
    elif word >> SIZE_BITS > FIRST:
        fault = f"a part with flag {word >> SIZE_BITS} that continues no record"
    elif claimed > file.size:
        fault = f"the record should end at {claimed}, and the file ends at {file.size}"
    elif word >> SIZE_BITS == WHOLE:
        fault = f"the record should end at {claimed}, and the next one starts before"
    else:
        fault = "a record in parts of which not all are here"
    after = "to the end of the file" if stop == file.size else f"up to the next record at {stop}"
    return Place(str(file.path), f"{fault}; {stop - start} bytes {after}", offset=start)


def _check_property(files: tuple[Path, ...], identities: int, findings: Findings) -> None:
    """Compare with the `property` file next to a `train.rec`: "identities,height,width"."""
    path = files[0].with_name("property")
    if len(files) > 1 or files[0].name != "train.rec" or not path.is_file():
        return
    text = path.read_bytes()[:80].decode("ascii", "replace").strip()
    if text.partition(",")[0] != str(identities):
        findings.add("property", [Place(str(path), f"found {text!r}, expected {identities},...")])
