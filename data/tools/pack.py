"""Packs image files into records: read, checked or re-encoded by all cores, written in one order.

The output depends on the images and the options, never on the number of workers. An interrupted run
is resumed where it stopped, and ends with the bytes of one that was not, provided that the images
that were packed already are the same. The others may have changed, so that a bad image can be
replaced in between.
"""

import logging
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from data.files import check_space, writing
from data.loading.decode import BadImage
from data.loading.tuning import usable_cores
from data.loading.workers import Workers
from data.order.orders import GlobalOrder
from data.progress import ProgressCallback
from data.records.format import HEADER, Int64s, framed_bytes, unpack_record
from data.records.reader import RecordFile
from data.records.shards import find_records
from data.tools.encoded_image import ENCODINGS, Encoding, check_whole, reencode
from data.tools.pack_job import JobError, PackJob, PackState
from data.tools.pack_source import PackSource, open_pack_source
from data.tools.record_set import (
    LAYOUTS,
    Layout,
    RecordSetWriter,
    Sharding,
    check_label_range,
    write_set_files,
)

logger = logging.getLogger(__name__)

SKIPPED = "skipped.tsv"

# A task is some milliseconds of work, and its results stay small however large the images are.
# Passing one between processes takes about half a millisecond.
_TASK_IMAGES = 256
_TASK_BYTES = 4 << 20
_READ_BYTES = 1 << 16
_READ_ONLY = os.O_RDONLY | getattr(os, "O_BINARY", 0)
_INDEX_LINE = 24  # bytes, about


class BadFile(ValueError):  # noqa: N818 - named as BadImage is
    """A file that is not a whole image; names it and says what is wrong and how to fix it."""


@dataclass(frozen=True)
class PackOptions:
    """What determines the bytes of a pack, in addition to the images.

    Raises `ValueError` for values that make no sense or do not go together.
    """

    # `identity`, sorted by class, or `plain`, as the source; see `data.tools.record_set`.
    layout: Layout = "identity"
    shuffle: int | None = None  # seed of a random order, in the plain layout; None keeps the order
    sharding: Sharding = field(default_factory=Sharding)
    # Pixels of both sides: an image of another size is resized, one of this size stays as it is.
    size: int | None = None  # None keeps all sizes
    encoding: Encoding | None = None  # None keeps an image's bytes, or is JPEG if it is resized
    quality: int = 95  # of JPEG

    def __post_init__(self) -> None:
        if self.layout not in LAYOUTS:
            raise ValueError(f"layout is {self.layout!r}: expected one of {', '.join(LAYOUTS)}")
        if self.shuffle is not None and self.layout != "plain":
            raise ValueError(
                f"shuffle is {self.shuffle} and layout {self.layout}, which is sorted by identity: "
                "expected layout plain"
            )
        if self.encoding is not None and self.encoding not in ENCODINGS:
            raise ValueError(
                f"encoding is {self.encoding!r}: expected one of {', '.join(ENCODINGS)}"
            )
        if self.size is not None and not 1 <= self.size <= 4096:
            raise ValueError(f"size is {self.size}: expected 1 to 4096 pixels")
        if not 1 <= self.quality <= 100:
            raise ValueError(f"quality is {self.quality}: expected 1 to 100")

    @property
    def keeps_bytes(self) -> bool:
        """Whether images go into their records byte for byte."""
        return self.size is None and self.encoding is None

    def to_json(self, total: int) -> dict[str, Any]:
        """Return what `pack.json` says of the options for a pack of `total` images."""
        names = {"sharding": "cut"}  # in the file
        values = {names.get(name, name): value for name, value in asdict(self).items()}
        # The bounds of a number of shards, and a random order, are those of this number of images.
        depends_on_total = self.shuffle is not None or self.sharding.shards is not None
        return {**values, "images": total if depends_on_total else None}


@dataclass(frozen=True)
class PackReport:
    """What `pack_records` did."""

    images: int  # in the pack
    classes: int
    skipped: int  # images left out
    resumed_at: int  # images that an earlier run had dealt with
    made: bool  # False if the same pack existed already


def pack_records(
    source: Path,
    output: Path,  # a folder that does not exist, is empty, or holds the same pack
    options: PackOptions,
    *,
    root: Path | None = None,
    remap_labels: bool = False,
    skip_bad: bool = False,  # leave out files that are not whole images, and list them in SKIPPED
    workers: int | None = None,  # processes
    checkpoint_seconds: float = 10.0,  # how much work may be lost when a run is interrupted
    progress: ProgressCallback | None = None,
) -> PackReport:
    """Pack the images of a folder or list into a set of records at `output`.

    See `data.tools.pack_source.open_pack_source` for `source`, `root` and `remap_labels`.

    Raises `ValueError` if a file is not a whole image (named; the run can be resumed once it is
    replaced), if the source or the output is not what it should be, and if the disk is too small
    or full.
    """
    # One process per CPU, unless bytes are kept: passing those between processes takes longer than
    # the work (1.4 s for 1.2 s).
    if workers is None:
        workers = 1 if options.keeps_bytes else usable_cores()
    with Workers(workers, processes=True) as working:  # which start while the files are listed
        images = open_pack_source(source, root=root, remap_labels=remap_labels)
        check_label_range(images.num_classes)
        order = _order(images, options)
        job = PackJob(output, options.to_json(len(order)))
        manifest = job.finished()
        if manifest is not None:
            if manifest["digest"] != images.digest(order).hexdigest():
                raise JobError(
                    f"{output} holds a pack of other images than {source} has now (names, labels, "
                    "sizes or times differ); choose another output, or delete it"
                )
            return PackReport(**manifest["report"], resumed_at=len(order), made=False)
        with job.begun() as state:
            _check_resumable(job, state, images, order, skip_bad)
            resumed_at = state.consumed
            packer = _Packer(job, state, images, order, options, skip_bad)
            packer.run(working, checkpoint_seconds, progress)
            _write_set_files(job.partial, images, order, state)
            report = {
                "images": len(order) - len(state.skipped),
                "classes": images.num_classes,
                "skipped": len(state.skipped),
            }
            job.finish({"report": report, "digest": state.digest})
    return PackReport(**report, resumed_at=resumed_at, made=True)


def _order(images: PackSource, options: PackOptions) -> Int64s:
    """Return the order in which images are written; int64 [n]."""
    count = len(images.labels)
    if options.shuffle is not None:
        return GlobalOrder(count, options.shuffle).order(0, count)[0]
    if options.layout == "plain":
        return np.arange(count)
    return np.argsort(images.labels, kind="stable")


def _check_resumable(
    job: PackJob, state: PackState, images: PackSource, order: Int64s, skip_bad: bool
) -> None:
    same = images.digest(order[: state.consumed]).hexdigest() == state.digest
    if state.consumed and (state.consumed > len(order) or not same):
        raise JobError(
            f"{job.partial}: the first {state.consumed} images are not those that the earlier run "
            "packed (names, labels, sizes or times differ); delete it to start again"
        )
    if state.skipped and not skip_bad:
        raise JobError(
            f"{job.partial}: the earlier run left out {len(state.skipped)} bad images; continue "
            "with --skip-bad, or delete it to start again"
        )
    if state.consumed:
        logger.info("%s: continuing after %d images", job.partial, state.consumed)


class _Packer:
    """One run over the images that are left."""

    def __init__(
        self,
        job: PackJob,
        state: PackState,
        images: PackSource,
        order: Int64s,
        options: PackOptions,
        skip_bad: bool,
    ) -> None:
        self._job, self._state, self._images, self._order = job, state, images, order
        self._options, self._skip_bad = options, skip_bad
        self._digest = images.digest(order[: state.consumed])

    def run(
        self, workers: Workers, checkpoint_seconds: float, progress: ProgressCallback | None
    ) -> None:
        """Write the records; raise `BadFile` if no file is a whole image."""
        images, order, state, options = self._images, self._order, self._state, self._options
        if options.keeps_bytes:
            written = sum(path.stat().st_size for path in self._job.partial.iterdir())
            per_record = framed_bytes(HEADER.size) + 2 + _INDEX_LINE
            needed = int(np.maximum(images.sizes, 0).sum()) + per_record * len(images.sizes)
            check_space(self._job.output, needed - written)
        bounds = _task_bounds(images.sizes[order], state.consumed)
        slices = (order[start:stop] for start, stop in bounds)
        tasks = (list(zip(images.paths(i), images.sizes[i].tolist(), strict=True)) for i in slices)
        prepare = partial(prepare_images, options=options)
        with RecordSetWriter(
            self._job.partial,
            total=len(order),
            layout=options.layout,
            sharding=options.sharding,
            resume=state.written,
        ) as writer:
            saved = time.monotonic()
            for prepared in workers.in_order(prepare, tasks):
                self._take(prepared, writer)
                if time.monotonic() - saved >= checkpoint_seconds:
                    self._save(writer)
                    saved = time.monotonic()
                if progress is not None:
                    progress(state.consumed, len(order))
            state.digest = self._digest.hexdigest()
            if len(state.skipped) == len(order):
                raise BadFile(
                    f"{images.paths(order[:1])[0]} {state.skipped[0][1]}; it is the first of "
                    f"{len(order)} files, of which none is a whole image"
                )

    def _take(self, prepared: list[bytes | str], writer: RecordSetWriter) -> None:
        """Write the next images of the order, or deal with what is wrong with them."""
        first = self._state.consumed
        indices = self._order[first : first + len(prepared)]
        labels = self._images.labels[indices].tolist()
        for number, (label, image) in enumerate(zip(labels, prepared, strict=True)):
            if isinstance(image, bytes):
                writer.add(first + number, label, image)
            elif self._skip_bad:
                self._state.skipped.append((first + number, image))
            else:
                self._advance(indices[:number])
                self._save(writer)
                raise BadFile(
                    f"{self._images.paths(indices[number : number + 1])[0]} {image}; replace it "
                    "and run again, which continues here, or leave such files out with --skip-bad"
                )
        self._advance(indices)

    def _advance(self, indices: Int64s) -> None:
        """Note that the images at `indices` are dealt with."""
        self._digest.update(self._images.fingerprint(indices))
        self._state.consumed += len(indices)

    def _save(self, writer: RecordSetWriter) -> None:
        self._state.digest = self._digest.hexdigest()
        self._job.save(self._state, writer)


def _task_bounds(sizes: Int64s, start: int) -> Iterator[tuple[int, int]]:
    """Cut the images from `start` on, of `sizes` int64 [n] bytes, into tasks `[start, stop)`."""
    before = np.concatenate([[0], np.cumsum(np.maximum(sizes, 0))])
    while start < len(sizes):
        fitting = int(np.searchsorted(before, before[start] + _TASK_BYTES, side="right")) - 1
        stop = min(max(fitting, start + 1), start + _TASK_IMAGES, len(sizes))
        yield start, stop
        start = stop


def prepare_images(task: list[tuple[str, int]], options: PackOptions) -> list[bytes | str]:
    """Return the bytes to store for each file, or a text that says what is wrong with it.

    Files are given by path and expected size in bytes.
    """
    return [_prepare(path, size, options) for path, size in task]


def _prepare(path: str, size: int, options: PackOptions) -> bytes | str:
    if size < 0:  # a pipe or a device could be read for ever
        return "is a folder, a pipe or a device: expected a file"
    try:
        encoded = _read(path, size)
        if options.keeps_bytes:
            check_whole(encoded)
            return encoded
        return reencode(
            encoded, size=options.size, encoding=options.encoding, quality=options.quality
        )
    except OSError as error:
        return f"cannot be read: {error.strerror or error}"
    except BadImage as error:
        return str(error)


def _read(path: str, size: int) -> bytes:
    """Return a file's content, which was `size` bytes when the files were listed.

    Takes a third of the time of `open` for a file of some kilobytes.
    """
    handle = os.open(path, _READ_ONLY)
    try:
        content = os.read(handle, size + 1)
        if len(content) == size:  # the end, without another call to find it
            return content
        pieces = [content]
        while piece := os.read(handle, _READ_BYTES):
            pieces.append(piece)
    finally:
        os.close(handle)
    return b"".join(pieces)


def _write_set_files(folder: Path, images: PackSource, order: Int64s, state: PackState) -> None:
    """Write `property`, `classes.json` and `skipped.tsv`."""
    first = unpack_record(RecordFile(find_records(folder)[0]).read(0))
    write_set_files(folder, images.num_classes, images.class_names, first.image)
    if not state.skipped:
        return
    skipped = order[[position for position, _ in state.skipped]]
    path = folder / SKIPPED
    with writing(path), path.open("w", encoding="utf-8", errors="surrogateescape") as file:
        for index, (_, fault) in zip(skipped.tolist(), state.skipped, strict=True):
            file.write(f"{images.files.paths[index]}\t{fault}\n")
    used = np.bincount(images.labels)
    empty = np.flatnonzero(used == np.bincount(images.labels[skipped], minlength=len(used)))
    if len(empty):
        logger.warning(
            "%d classes have no image left, the first is %d (%s): open the records with "
            "remap_labels, or remove those identities and pack again",
            len(empty),
            empty[0],
            images.class_names[empty[0]] if images.class_names else empty[0],
        )
