"""Image files to records: read, checked or made anew by all cores, written in one order.

What is written depends on the images and the options, never on the number of workers. A run that
was cut short goes on where it stopped, and ends with the bytes of one that was not, provided that
the images that it had come to are still the same. Those it had not come to may have changed, so
that a bad image can be replaced in between.
"""

import logging
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from data.datasets.folders import ImageFiles, digest, find_images
from data.files import writing
from data.loading.cores import usable_cores
from data.loading.decode import BadImage
from data.loading.workers import Workers
from data.order.orders import GlobalOrder
from data.records.format import HEADER, framed_bytes, unpack_record
from data.records.reader import RecordFile
from data.records.shards import find_records
from data.tools.encoded_image import ENCODINGS, Encoding, check_whole, reencode
from data.tools.pack_job import JobError, PackJob, Progress, check_space
from data.tools.record_set import (
    LAYOUTS,
    Cut,
    Layout,
    RecordSetWriter,
    check_label_range,
    write_set_files,
)

logger = logging.getLogger(__name__)

SKIPPED = "skipped.tsv"

# A task is some milliseconds of work, and its results stay small however large the images are.
# Each costs about half a millisecond to pass between processes.
_TASK_IMAGES = 256
_TASK_BYTES = 4 << 20
_READ_BYTES = 1 << 16
_READ_ONLY = os.O_RDONLY | getattr(os, "O_BINARY", 0)
_INDEX_LINE = 24  # bytes, about


class BadFile(ValueError):  # noqa: N818 - named as BadImage is
    """A file that is no whole image; names it and says what is wrong, and the mend."""


@dataclass(frozen=True)
class PackOptions:
    """What decides the bytes of a pack, besides the images.

    Attributes:
        layout: `identity`, sorted by class, or `plain`, in the order of the source; see
            `data.tools.record_set`.
        shuffle: seed of a random order, in the plain layout; None keeps the order.
        cut: where one file ends and the next begins.
        size: pixels of both sides. An image of another size is resized, one of this size stays
            as it is. None leaves all sizes.
        encoding: form to write every image in. None keeps its bytes, or JPEG if it is resized.
        quality: of JPEG.

    Raises `ValueError` for values that make no sense or do not go together.
    """

    layout: Layout = "identity"
    shuffle: int | None = None
    cut: Cut = field(default_factory=Cut)
    size: int | None = None
    encoding: Encoding | None = None
    quality: int = 95

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


@dataclass(frozen=True)
class PackReport:
    """What `pack_records` did.

    Attributes:
        images: packed, in all.
        classes: number of classes.
        skipped: images left out.
        resumed_at: images that an earlier run had come to.
        made: False if the same pack was there already.
    """

    images: int
    classes: int
    skipped: int
    resumed_at: int
    made: bool


def pack_records(
    source: Path,
    output: Path,
    options: PackOptions,
    *,
    root: Path | None = None,
    remap_labels: bool = False,
    skip_bad: bool = False,
    workers: int | None = None,
    checkpoint_seconds: float = 10.0,
    progress: Callable[[int, int], None] | None = None,
) -> PackReport:
    """Pack the images of a folder or list into a set of records at `output`.

    Args:
        source: see `data.datasets.folders.find_images`, as for `root` and `remap_labels`.
        output: a folder that does not exist, is empty, or holds the same pack.
        options: what to write.
        root: what a list's paths are relative to.
        remap_labels: number the classes afresh where a list's labels have gaps.
        skip_bad: leave out files that are no whole image, and list them in `skipped.tsv`.
        workers: processes; by default one for each CPU that this process may use where images
            are made anew, and none besides this one where their bytes are kept: passing the bytes
            between processes then takes longer than the work (1.4 s for 1.2 s).
        checkpoint_seconds: how much work may be lost when a run is cut short.
        progress: called with (images dealt with, images in all) now and then.

    Raises:
        ValueError: a file is no whole image (named; the run can go on once it is replaced), the
            source or the output is not what it should be, or the disk is too small or full.
    """
    if workers is None:
        workers = 1 if options.keeps_bytes else usable_cores()
    with Workers(workers, processes=True) as working:  # which start while the files are listed
        images = find_images(source, root=root, remap_labels=remap_labels)
        return _pack(
            source, images, output, options, working, skip_bad, checkpoint_seconds, progress
        )


def _pack(
    source: Path,
    images: ImageFiles,
    output: Path,
    options: PackOptions,
    workers: Workers,
    skip_bad: bool,
    checkpoint_seconds: float,
    progress: Callable[[int, int], None] | None,
) -> PackReport:
    check_label_range(images.num_classes)
    order = _order(images, options)
    # The places of a cut by number, and a random order, are those of this number of images.
    depends_on_total = options.shuffle is not None or options.cut.shards is not None
    job = PackJob(output, {**asdict(options), "images": len(order) if depends_on_total else None})
    finished = job.finished()
    if finished is not None:
        if finished["digest"] != digest(images, order).hexdigest():
            raise JobError(
                f"{output} holds a pack of other images than {source} has now (names, labels, "
                "sizes or times differ); choose another output, or delete it"
            )
        return PackReport(**finished["report"], resumed_at=len(order), made=False)
    with job.begun() as state:
        _check_resumable(job, state, images, order, skip_bad)
        if options.keeps_bytes:
            written = sum(path.stat().st_size for path in job.partial.iterdir())
            check_space(output, _least_bytes(images) - written)
        resumed_at = state.consumed
        with RecordSetWriter(
            job.partial,
            total=len(order),
            layout=options.layout,
            cut=options.cut,
            resume=state.written,
        ) as writer:
            packer = _Packer(job, state, images, order, options, writer, skip_bad)
            packer.run(workers, checkpoint_seconds, progress)
            if len(state.skipped) == len(order):
                raise BadFile(
                    f"{images.paths(order[:1])[0]} {state.skipped[0][1]}; it is the first of "
                    f"{len(order)} files, of which none is a whole image"
                )
        _write_beside(job.partial, images, order, state)
        report = {
            "images": len(order) - len(state.skipped),
            "classes": images.num_classes,
            "skipped": len(state.skipped),
        }
        job.finish({"report": report, "digest": state.digest})
    return PackReport(**report, resumed_at=resumed_at, made=True)


def _order(images: ImageFiles, options: PackOptions) -> npt.NDArray[np.int64]:
    """Return the order in which images are written; int64 [n]."""
    count = len(images.names)
    if options.shuffle is not None:
        return GlobalOrder(count, options.shuffle).order(0, count)[0]
    if options.layout == "plain":
        return np.arange(count)
    return np.argsort(images.labels, kind="stable")


def _check_resumable(
    job: PackJob,
    state: Progress,
    images: ImageFiles,
    order: npt.NDArray[np.int64],
    skip_bad: bool,
) -> None:
    same = digest(images, order[: state.consumed]).hexdigest() == state.digest
    if state.consumed and (state.consumed > len(order) or not same):
        raise JobError(
            f"{job.partial}: the first {state.consumed} images are not those that the earlier run "
            "packed (names, labels, sizes or times differ); delete it to begin anew"
        )
    if state.skipped and not skip_bad:
        raise JobError(
            f"{job.partial}: the earlier run left out {len(state.skipped)} bad images; go on with "
            "--skip-bad, or delete it to begin anew"
        )
    if state.consumed:
        logger.info("%s: going on after %d images", job.partial, state.consumed)


def _least_bytes(images: ImageFiles) -> int:
    """Return about how many bytes the records of whole files take."""
    frames = len(images.sizes) * (framed_bytes(HEADER.size) + 2 + _INDEX_LINE)
    return int(images.sizes.sum()) + frames


class _Packer:
    """One run over the images that are left."""

    def __init__(
        self,
        job: PackJob,
        state: Progress,
        images: ImageFiles,
        order: npt.NDArray[np.int64],
        options: PackOptions,
        writer: RecordSetWriter,
        skip_bad: bool,
    ) -> None:
        self._job, self._state, self._images, self._order = job, state, images, order
        self._options, self._writer, self._skip_bad = options, writer, skip_bad
        self._digest = digest(images, order[: state.consumed])

    def run(
        self,
        workers: Workers,
        checkpoint_seconds: float,
        progress: Callable[[int, int], None] | None,
    ) -> None:
        images, order = self._images, self._order
        bounds = _task_bounds(images.sizes[order], self._state.consumed)
        tasks = (_Task(images.paths(i), images.sizes[i].tolist()) for i in _parts(order, bounds))
        prepare = partial(prepare_images, options=self._options)
        saved = time.monotonic()
        for prepared in workers.in_order(prepare, tasks):
            self._take(prepared)
            if time.monotonic() - saved >= checkpoint_seconds:
                self._save()
                saved = time.monotonic()
            if progress is not None:
                progress(self._state.consumed, len(order))
        self._state.digest = self._digest.hexdigest()

    def _take(self, prepared: list[bytes | str]) -> None:
        """Write the next images of the order, or deal with what is wrong with them."""
        first = self._state.consumed
        indices = self._order[first : first + len(prepared)]
        labels = self._images.labels[indices].tolist()
        for number, (label, image) in enumerate(zip(labels, prepared, strict=True)):
            if isinstance(image, bytes):
                self._writer.add(first + number, label, image)
            elif self._skip_bad:
                self._state.skipped.append((first + number, image))
            else:
                self._advance(indices[:number])
                self._save()
                raise BadFile(
                    f"{self._images.paths(indices[number : number + 1])[0]} {image}; replace it "
                    "and run again, which goes on here, or leave such files out with --skip-bad"
                )
        self._advance(indices)

    def _advance(self, indices: npt.NDArray[np.int64]) -> None:
        """Note that the images at `indices` are dealt with."""
        self._digest.update(self._images.fingerprint(indices))
        self._state.consumed += len(indices)

    def _save(self) -> None:
        self._state.digest = self._digest.hexdigest()
        self._job.save(self._state, self._writer)


def _parts(
    order: npt.NDArray[np.int64], bounds: list[tuple[int, int]]
) -> Iterator[npt.NDArray[np.int64]]:
    for start, stop in bounds:
        yield order[start:stop]


def _task_bounds(sizes: npt.NDArray[np.int64], start: int) -> list[tuple[int, int]]:
    """Cut the images from `start` on, of `sizes` int64 [n] bytes, into tasks `[start, stop)`."""
    before = np.concatenate([[0], np.cumsum(sizes)])
    bounds: list[tuple[int, int]] = []
    while start < len(sizes):
        fitting = int(np.searchsorted(before, before[start] + _TASK_BYTES, side="right")) - 1
        stop = min(max(fitting, start + 1), start + _TASK_IMAGES, len(sizes))
        bounds.append((start, stop))
        start = stop
    return bounds


@dataclass(frozen=True)
class _Task:
    """Files to be read: their paths, and about how many bytes each has."""

    paths: list[str]
    sizes: list[int]


def prepare_images(task: _Task, options: PackOptions) -> list[bytes | str]:
    """Return the bytes to store for each file, or in words what is wrong with it."""
    return [
        _prepare(path, size, options) for path, size in zip(task.paths, task.sizes, strict=True)
    ]


def _prepare(path: str, size: int, options: PackOptions) -> bytes | str:
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
    """Return a file's content, which was `size` bytes when the files were looked for.

    A third of the time that `open` takes for a file of kilobytes.
    """
    handle = os.open(path, _READ_ONLY)
    try:
        content = os.read(handle, size + 1)
        if len(content) == size:  # the end, found without asking for more
            return content
        pieces = [content]
        while piece := os.read(handle, _READ_BYTES):
            pieces.append(piece)
    finally:
        os.close(handle)
    return b"".join(pieces)


def _write_beside(
    folder: Path, images: ImageFiles, order: npt.NDArray[np.int64], state: Progress
) -> None:
    """Write `property`, `classes.json` and `skipped.tsv`."""
    first = unpack_record(RecordFile(find_records(folder)[0]).read(0))
    write_set_files(folder, images.num_classes, images.class_names, first.image)
    if not state.skipped:
        return
    skipped = order[[position for position, _ in state.skipped]]
    with (
        writing(folder / SKIPPED),
        (folder / SKIPPED).open("w", encoding="utf-8", errors="surrogateescape") as file,
    ):
        for index, (_, fault) in zip(skipped.tolist(), state.skipped, strict=True):
            file.write(f"{images.names[index]}\t{fault}\n")
    left = np.bincount(images.labels) - np.bincount(
        images.labels[skipped], minlength=images.num_classes
    )
    empty = np.flatnonzero(left == 0)
    if len(empty):
        logger.warning(
            "%d classes have no image left, the first is %d (%s): open the records with "
            "remap_labels, or remove those identities and pack again",
            len(empty),
            empty[0],
            images.class_names[empty[0]] if images.class_names else empty[0],
        )
