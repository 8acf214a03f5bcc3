"""Cuts the faces out of a folder of photos, and goes on where an earlier run stopped.

Beside the folder `faces` stand `faces.csv`, a row for each face and for each photo without one, and
`faces.json`, how they were made and how many there are. The list is also the journal: a photo that
it names is done, and a face that it names is not written again, whatever became of it since.
"""

import csv
import json
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from io import StringIO
from pathlib import Path, PurePosixPath
from typing import Any, Final, NamedTuple

import xxhash

from data.datasets.folders import IMAGE_SUFFIXES
from data.datasets.lists import path_fault
from data.detection.choice import WRITTEN, Choice
from data.detection.cut import HEADING, SMALL_SIDE, Cutter, row
from data.detection.detections import Detector
from data.detection.detector import open_detector
from data.files import OutputFolderError, atomic_write, is_free, writing
from data.loading.tuning import usable_cores
from data.loading.workers import Workers
from data.progress import ProgressCallback
from data.tools.align import Crop

PHOTO_SUFFIXES: Final = frozenset(
    (*IMAGE_SUFFIXES, ".tif", ".tiff", ".gif", ".avif", ".heic", ".heif")
)
"""Names of photos; what Pillow cannot read of them is listed."""

_LONGEST_NAME: Final = 200  # bytes: `_face2`, and what a file is called before it is whole, fit

_detector: Detector | None = None  # of this process


class DetectionError(ValueError):
    """Photos that cannot be worked through; says what was found and what to do."""


@dataclass(frozen=True)
class Outcome:
    """What became of a folder of photos."""

    photos: int
    reasons: dict[str, int]  # of `choice.REASONS`, how many faces, or photos without one
    other_files: int  # that are no photos by their names
    faceless: tuple[str, ...] = ()  # sub-folders of photos without a face that was written


@dataclass(frozen=True)
class Files:
    """Where the results of a folder of faces stand."""

    faces: Path

    @property
    def list(self) -> Path:
        """The CSV of faces, and of photos without one."""
        return self.faces.with_name(f"{self.faces.name}.csv")

    @property
    def settings(self) -> Path:
        """The JSON of how they were made."""
        return self.faces.with_name(f"{self.faces.name}.json")

    @property
    def lock(self) -> Path:
        """The lock for large photos."""
        return self.faces.with_name(f".{self.faces.name}.lock")


def cut_faces(
    source: Path,
    output: Path,
    crop: Crop,
    choice: Choice,
    *,
    detector: Path | None = None,  # an ONNX file; by default the installed MTCNN
    small_side: int = SMALL_SIDE,
    processes: int | None = None,  # by default one per core that this process may use
    progress: ProgressCallback | None = None,
) -> Outcome:
    """Find the faces in the photos of a folder, and write those that are wanted to `output`.

    A face gets the path of its photo; further ones of a photo get `_face2` and so on.

    Raises `DetectionError` for a missing folder or one without photos, `DetectorError`, and
    `OutputFolderError` if `output` holds something else, or was made otherwise.
    """
    if not source.is_dir():
        raise DetectionError(f"{source} is not a folder: expected that of the photos")
    if small_side < 64:
        raise DetectionError(f"small_side is {small_side}: expected at least 64 pixels")
    files = Files(output)
    photos, others = _photos(source, output)
    if not photos:
        endings = ", ".join(sorted(PHOTO_SUFFIXES))
        raise DetectionError(f"{source} has no photos: expected files that end in {endings}")
    open_detector(detector)  # complains before anything is written
    _prepare(files, _settings(source, crop, choice, detector, small_side))
    reasons: Counter[str] = Counter()
    done, last, listed, stems = _resume(files.list, reasons)
    written = frozenset(cells[2] for cells in listed if cells[1] == WRITTEN)
    cutter = Cutter(source, output, crop, choice, small_side, files.lock, written)
    _name(photos, stems)
    left = [(photo, stems[photo]) for photo in photos if photo not in done]
    left.sort(key=lambda item: item[0] != last)  # its rows stay together
    count = usable_cores() if processes is None else processes
    start = partial(_start, detector)
    with (
        files.list.open("a", newline="", encoding="utf-8", errors="surrogateescape") as file,
        Workers(min(count, max(len(left), 1)), processes=True, start=start) as workers,
    ):
        if not workers.in_processes:
            start()
        for rows in workers.in_order(partial(_cut, cutter), left):
            done.add(photo := rows[0][0])
            rows = rows[len(listed) :] if photo == last else rows
            with writing(files.list):
                file.write(_text(rows))
                file.flush()
            reasons.update(cells[1] for cells in rows)
            if progress is not None:
                progress(len(done), len(photos))
    files.lock.unlink(missing_ok=True)
    return Outcome(len(photos), dict(reasons), others, _faceless(photos, output))


def written_faces(output: Path) -> Iterator[dict[str, str]]:
    """Yield the rows of the list of `output` that have a face."""
    with Files(output).list.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        yield from (cells for cells in csv.DictReader(file) if cells["reason"] == WRITTEN)


def _photos(source: Path, output: Path) -> tuple[list[str], int]:
    """Return the paths of the photos, sorted, and how many other files there are."""
    photos, others = [], 0
    for path in source.rglob("*"):
        inside = path.relative_to(source)
        if path.is_dir() or output in path.parents or any(p.startswith(".") for p in inside.parts):
            continue
        if path.suffix.lower() in PHOTO_SUFFIXES:
            photos.append(inside.as_posix())
        else:
            others += 1
    return sorted(photos), others


def _name(photos: list[str], stems: dict[str, str]) -> None:
    """Add for each photo the path of its face without a suffix; no two are the same."""
    taken = set(stems.values())
    for photo in photos:
        if photo in stems:
            continue  # which has the name that it got before others came
        stem = str(PurePosixPath(photo).with_suffix(""))
        stem = photo if stem in taken or "_face" in PurePosixPath(stem).name else stem
        while stem in taken:
            stem += "_"
        taken.add(stem)
        stems[photo] = stem


def _faceless(photos: list[str], output: Path) -> tuple[str, ...]:
    """Return the sub-folders of the photos from which no face was written."""
    folders = {photo.rpartition("/")[0] for photo in photos}
    with_face = {cells["photo"].rpartition("/")[0] for cells in written_faces(output)}
    return tuple(sorted(folders - with_face - {""}))


def _settings(
    source: Path, crop: Crop, choice: Choice, detector: Path | None, small_side: int
) -> dict[str, Any]:
    name = "mtcnn"
    if detector is not None:
        name = f"{detector.name} {xxhash.xxh64_hexdigest(detector.read_bytes())}"
    parts = {"crop": asdict(crop), "choice": asdict(choice)}
    parts["choice"]["keep"] = sorted(choice.keep)
    return {"photos": str(source.resolve()), "detector": name, "small_side": small_side, **parts}


def _prepare(files: Files, settings: dict[str, Any]) -> None:
    """Make the folder, or see that it was made with the same settings."""
    if files.settings.exists():
        try:
            found = json.loads(files.settings.read_text(encoding="utf-8"))
        except ValueError as error:
            raise OutputFolderError(f"{files.settings} is no JSON: {error}") from error
        if found != settings:
            raise OutputFolderError(
                f"{files.faces} was made with {found}, not with {settings}: choose another "
                f"folder, or delete this one and {files.settings.name} and {files.list.name}"
            )
    elif not is_free(files.faces) or files.list.exists():
        raise OutputFolderError(
            f"{files.faces} or {files.list} exists, and {files.settings} does not say how it was "
            "made: choose another folder, or remove it"
        )
    with writing(files.faces):
        files.faces.mkdir(parents=True, exist_ok=True)
        with atomic_write(files.settings) as file:
            file.write(json.dumps(settings, indent=2).encode() + b"\n")


class _Earlier(NamedTuple):
    """What the list says that earlier runs did."""

    done: set[str]  # the photos but for the last
    last: str | None
    listed: list[list[str]]  # the rows of the last
    stems: dict[str, str]  # of each photo with a face, the path of its first one without a suffix


def _resume(path: Path, reasons: Counter[str]) -> _Earlier:
    """Return what the list holds, and count the reasons of all its rows.

    The last photo is done again: a run that was killed may have listed only some of its faces.
    Those that it did list were written, and may have been moved since: their rows stay. Begins the
    list if there is none.
    """
    text = path.read_text("utf-8", "surrogateescape") if path.exists() else ""
    whole = text[: text.rfind("\n") + 1]
    every = list(csv.reader(StringIO(whole)))[1:]
    rows = [cells for cells in every if len(cells) == len(HEADING)]  # a name may hold a line end
    with atomic_write(path) as file:
        file.write(_text([list(HEADING), *rows]).encode("utf-8", "surrogateescape"))
    reasons.update(cells[1] for cells in rows)
    last = rows[-1][0] if rows else None
    listed = [cells for cells in rows if cells[0] == last]
    stems: dict[str, str] = {}
    for cells in rows:
        if cells[1] == WRITTEN:
            stems.setdefault(cells[0], cells[2].rpartition(".")[0])
    return _Earlier({cells[0] for cells in rows} - {last}, last, listed, stems)


def _text(rows: list[list[str]]) -> str:
    stream = StringIO()
    csv.writer(stream, lineterminator="\n").writerows(rows)
    return stream.getvalue()


def _start(detector: Path | None) -> None:
    global _detector
    _detector = open_detector(detector)


def _cut(cutter: Cutter, item: tuple[str, str]) -> list[list[str]]:
    photo, stem = item
    fault = path_fault(photo)
    if not fault and len(os.fsencode(PurePosixPath(photo).name)) > _LONGEST_NAME:
        fault = f"its name is longer than {_LONGEST_NAME} bytes"
    if fault:
        return [row(photo, "name", detail=fault)]
    assert _detector is not None, "the process was started with a detector"
    return cutter(photo, stem, _detector)
