"""Checks every record of `.rec` files: framing, index, labels, images, copies.

A file is cut into stretches that this thread reads from end to end, and workers take apart and
decode; then their columns are joined and looked at. Memory is about 100 bytes a record, 1.7 GB for
17 million, and a few stretches a worker.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Final

import numpy as np

from data.files import refuse_lfs_pointer
from data.loading.cores import usable_cores
from data.loading.workers import Workers
from data.records.format import MAGIC_BYTES, RecordError
from data.tools.check.content import (
    Mask,
    RecordTable,
    Rows,
    check_labels,
    check_sizes,
    possible_copies,
    report_copies,
)
from data.tools.check.file import STRETCH, check_file
from data.tools.check.scan import image_digests
from data.tools.check_kinds import KINDS
from data.tools.findings import Findings, Place

Progress = Callable[[int, int], None]

_DIGESTED_AT_ONCE: Final = 256  # images
# Decoding holds the interpreter's lock for less than a tenth of its time: more threads than this
# would wait for each other, and so long a job as needs more cores can wait for processes to start.
_THREADS: Final = 8
_SCANNERS: Final = 4  # threads where nothing is decoded: each looks at gigabytes a second


@dataclass(frozen=True)
class CheckResult:
    """What was looked at, and what was found.

    Attributes:
        files: the `.rec` files.
        size: of them all in bytes.
        records, images, identities: how many whole ones there are; images are those that
            training would read, identities their different labels.
        decoded: whether images were decoded.
        seconds: that it took.
        findings: see `data.tools.check_kinds.KINDS`.
    """

    files: tuple[Path, ...]
    size: int
    records: int
    images: int
    identities: int
    decoded: bool
    seconds: float
    findings: Findings

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
        how = "every image decoded" if self.decoded else "images not decoded"
        head = (
            f"{files}: {self.records:,} records, {self.images:,} images of {self.identities:,} "
            f"identities, {self.size / 1e6:,.1f} MB, {how}, {self.seconds:.1f} s"
        )
        end = "" if self.clean else "\n\nThere are findings to act on."
        found = self.findings.text()
        return f"{head}\n\n{found}{end}" if found else f"{head}\n\nNothing was found."


def check_records(
    files: Iterable[Path],
    *,
    decode: bool = True,
    workers: int | None = None,
    progress: Progress | None = None,
) -> CheckResult:
    """Check every record of `files`, which together are one dataset, and go on past damage.

    Args:
        files: as `data.records.shards.find_records` gives them, each with its `.idx` beside it or
            without.
        decode: whether to decode every image, as training does.
        workers: how many look at records at a time; by default one for each core that this
            process may use. With 1 the work is done in this thread.
        progress: called with (bytes done, bytes in all) now and then.

    Raises `RecordError` for what is no RecordIO file at all, `OSError` for what cannot be opened,
    and `ValueError` for fewer than one worker, or one that was killed.
    """
    begun = time.perf_counter()
    files = tuple(files)
    places = [file.resolve() for file in files]
    for number, place in enumerate(places):
        if place in places[:number]:
            raise RecordError(f"{files[number]} is named twice: expected every file once")
    sizes = [_check_start(file) for file in files]
    workers = usable_cores() if workers is None else workers
    if workers < 1:
        raise ValueError(f"workers is {workers}: expected at least 1")
    findings = Findings(KINDS)
    tables: list[RecordTable] = []
    masks: list[Mask] = []
    with _workers(workers, sum(sizes), decode) as working:
        for number, (file, size) in enumerate(zip(files, sizes, strict=True)):
            done = _progress_of(progress, sum(sizes[:number]), sum(sizes))
            table, images = check_file(file, size, decode, working, done, findings)
            tables.append(table)
            masks.append(images)
        table, images = _joined(tables), np.concatenate(masks)
        images = check_labels(table, images, findings)
        check_sizes(table, findings)
        rows = possible_copies(table, images)
        report_copies(table, rows, list(_digests(table, rows, working)), findings)
    identities = len(np.unique(table.labels[images]))
    _check_property(files, identities, findings)
    return CheckResult(
        files=files,
        size=sum(sizes),
        records=len(table.keys),
        images=int(np.count_nonzero(images)),
        identities=identities,
        decoded=decode,
        seconds=time.perf_counter() - begun,
        findings=findings,
    )


def _check_start(path: Path) -> int:
    """Return the size of a file; raise `RecordError` unless it can be RecordIO."""
    with path.open("rb") as file:
        start = file.read(1 << 20)
    refuse_lfs_pointer(path, start[:512], RecordError)
    if not start:
        raise RecordError(f"{path} is empty: expected a RecordIO file; copy or make it again")
    at = start.find(MAGIC_BYTES)
    while at % 4 and at > 0:
        at = start.find(MAGIC_BYTES, at + 1)
    if at < 0:
        raise RecordError(
            f"{path} is no RecordIO file: it starts with {start[:8]!r}, and its first MiB has no "
            f"{MAGIC_BYTES!r}, with which records start; copy or make it again"
        )
    return path.stat().st_size


def _check_property(files: tuple[Path, ...], identities: int, findings: Findings) -> None:
    """Hold the `property` file beside a `train.rec`, "identities,height,width", against it."""
    path = files[0].with_name("property")
    if len(files) > 1 or files[0].name != "train.rec" or not path.is_file():
        return
    text = path.read_bytes()[:80].decode("ascii", "replace").strip()
    if text.partition(",")[0] != str(identities):
        findings.add("property", [Place(str(path), f"found {text!r}, expected {identities},...")])


def _workers(count: int, size: int, decode: bool) -> Workers:
    """Return what looks at files of `size` bytes in all, where `count` may work at a time."""
    count = max(1, min(count, -(-size // STRETCH)))
    if decode:
        return Workers(count, processes=count > _THREADS)
    # Few stretches ahead stay in the cores' cache.
    return Workers(min(count, _SCANNERS), processes=False, ahead=1)


def _progress_of(progress: Progress | None, before: int, total: int) -> Callable[[int], None]:
    """Return what adds the bytes done of one file to those of the files before."""

    def done(size: int) -> None:
        if progress is not None:
            progress(before + size, total)

    return done


def _joined(tables: list[RecordTable]) -> RecordTable:
    """Return the records of all files as one table."""
    if len(tables) == 1:
        return tables[0]
    counts = [len(table.keys) for table in tables]
    columns = ("keys", "offsets", "labels", "image_sizes", "fingerprints", "sizes")
    return RecordTable(
        files=tuple(table.files[0] for table in tables),
        first_rows=tuple(sum(counts[:number]) for number in range(len(counts))),
        **{name: np.concatenate([getattr(table, name) for table in tables]) for name in columns},
    )


def _digests(table: RecordTable, rows: Rows, workers: Workers) -> Iterator[bytes]:
    """Yield a digest of the image of each of `rows`, which are in order."""
    tasks: list[tuple[Path, list[int]]] = []
    files = np.searchsorted(table.first_rows, rows, side="right") - 1
    for number, file in enumerate(table.files):
        offsets = table.offsets[rows[files == number]].tolist()
        parts = range(0, len(offsets), _DIGESTED_AT_ONCE)
        tasks += [(file, offsets[start : start + _DIGESTED_AT_ONCE]) for start in parts]
    yield from chain.from_iterable(workers.in_order(_digest, tasks))


def _digest(task: tuple[Path, list[int]]) -> list[bytes]:
    return image_digests(*task)
