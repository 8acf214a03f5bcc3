"""Crops the faces out of a folder of photos to the standard template, by a list of landmarks.

The list is a CSV file of `path,x1,y1,…,x5,y5`, one face per line, with or without a heading. Paths
are relative to the folder. A photo may be in it several times, once per face.

Points are x, y in pixels from the centre of the top left pixel, as detectors give them: the left
eye (on the left of the picture), the right eye, the tip of the nose, the left and the right corner
of the mouth.
"""

import csv
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Final, Literal, get_args

import numpy as np
from PIL import Image

from data.alignment import (
    TEMPLATE,
    TEMPLATE_SIZE,
    AlignmentError,
    CropMethod,
    Points,
    Similarity,
    crop_face,
    fit_similarity,
)
from data.datasets.folders import IMAGE_SUFFIXES
from data.datasets.lists import path_fault
from data.files import make_output_folder
from data.loading.tuning import usable_cores
from data.progress import ProgressCallback
from data.tools.findings import Findings, Kind, Place

Format = Literal["jpg", "png"]

KINDS: Final[dict[str, Kind]] = {
    "photo": Kind("error", "photos that cannot be read", "replace them, or remove their lines"),
    "landmarks": Kind(
        "error", "landmarks that do not make a face", "correct these lines, or remove them"
    ),
    "mirrored": Kind(
        "warning",
        "faces that a mirror image of their landmarks would fit better",
        "give the eye on the left of the picture first, then the other, the nose, the corner of "
        "the mouth on the left, the other; or see whether the photos are mirrored",
    ),
    "tilted": Kind(
        "warning",
        "faces tilted beyond the limit",
        "look at them: photos may be rotated, or landmarks be in another order",
    ),
    "misfit": Kind(
        "warning",
        "landmarks far from the template after alignment",
        "look at them: landmarks may be wrong; faces in full profile fit no better",
    ),
    "outside": Kind(
        "warning",
        "faces with landmarks outside their photo",
        "see whether the landmarks belong to the photo as it is stored, in its full size",
    ),
    "orientation": Kind(
        "warning",
        "photos with an orientation tag, which is ignored",
        "landmarks must be those of the photo as it is stored; if your detector rotates photos "
        "first, rotate the files permanently and detect again",
    ),
    "unlisted": Kind(
        "note", "photos in the folder that the list does not name", "nothing, if they have no face"
    ),
}
# Root mean square distance from the template, as a fraction of the side. Two swapped landmarks give
# 0.13 or more, a face turned to the side until the eyes are 0.4 as far apart 0.09.
_MISFIT: Final = 0.12
_ORIENTATION: Final = 0x0112  # the EXIF tag
_PILLOW_NAMES: Final = {"jpg": "JPEG", "png": "PNG"}
_BATCH: Final = 1024  # photos whose results are in memory


@dataclass(frozen=True)
class Face:
    """A line of the list."""

    line: int
    path: str  # of the photo
    points: Points  # in pixels


@dataclass(frozen=True)
class Crop:
    """How faces are cropped."""

    size: int = TEMPLATE_SIZE  # of a side, in pixels
    format: Format = "jpg"
    quality: int = 95  # of JPEG
    max_tilt: float = 45.0  # degrees beyond which to warn
    method: CropMethod = "antialiased"

    def __post_init__(self) -> None:
        if not 16 <= self.size <= 4096:
            raise AlignmentError(f"size is {self.size}: expected 16 to 4096 pixels")
        if self.format not in get_args(Format):
            raise AlignmentError(f"format is {self.format!r}: expected jpg or png")
        if not 1 <= self.quality <= 100:
            raise AlignmentError(f"quality is {self.quality}: expected 1 to 100")
        if not 0 < self.max_tilt <= 180:
            raise AlignmentError(f"max_tilt is {self.max_tilt}: expected degrees up to 180")
        if self.method not in get_args(CropMethod):
            expected = " or ".join(get_args(CropMethod))
            raise AlignmentError(f"method is {self.method!r}: expected {expected}")


def read_landmarks(path: Path) -> list[Face]:
    """Read a list; raises `AlignmentError` with the first line that does not fit."""
    faces: list[Face] = []
    is_first = True
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            for row in reader:
                if not any(cell.strip() for cell in row):
                    continue
                points = _points(row[1:])
                if points is not None:
                    if fault := path_fault(row[0].strip()):
                        raise AlignmentError(
                            f"{path}, line {reader.line_num}: found {row[0][:80]!r}, {fault}; "
                            "rename the file and correct the line, or leave it out"
                        )
                    faces.append(Face(reader.line_num, row[0].strip(), points))
                elif not (is_first and len(row) == 11):
                    raise AlignmentError(
                        f"{path}, line {reader.line_num}: found {','.join(row)[:80]!r}, expected "
                        "path,x1,y1,...,x5,y5 with numbers"
                    )
                is_first = False
    except (OSError, UnicodeError, csv.Error) as error:
        raise AlignmentError(f"{path} cannot be read as CSV: {error}") from error
    if not faces:
        raise AlignmentError(f"{path} lists no faces: expected lines of path,x1,y1,...,x5,y5")
    return faces


def _points(cells: list[str]) -> Points | None:
    """Return ten cells as points, NaN for empty ones; None if they are something else."""
    try:
        return np.array([float(cell.strip() or "nan") for cell in cells]).reshape(5, 2)
    except ValueError:
        return None


def align_folder(
    landmarks: Path,
    source: Path,
    output: Path,  # a folder that is empty or not there yet
    crop: Crop,
    *,
    threads: int | None = None,  # by default one per core that this process may use
    progress: ProgressCallback | None = None,
) -> tuple[int, Findings]:
    """Crop every face that `landmarks` lists and return how many were, and what was found.

    A face gets the path of its photo, in `output`; the second of a photo gets `-2` before the
    suffix.

    Raises `AlignmentError` for a bad list and a missing folder, and `OutputFolderError`.
    """
    faces = read_landmarks(landmarks)
    if not source.is_dir():
        raise AlignmentError(
            f"{source} is not a folder: expected that of the photos in {landmarks}"
        )
    threads = usable_cores() if threads is None else threads
    if threads < 1:
        raise AlignmentError(f"threads is {threads}: expected at least 1")
    make_output_folder(output)
    findings = Findings(KINDS)
    names = _names(faces, crop.format)
    for folder in {(output / name).parent for name in names if name}:
        folder.mkdir(parents=True, exist_ok=True)

    def work(number: int) -> tuple[bool, list[tuple[str, str]]]:
        if not names[number]:
            return False, [("photo", "the path leads out of the folder of photos")]
        return _align(source, faces[number], output / names[number], crop)

    written = 0
    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, len(faces), _BATCH):
            batch = range(start, min(start + _BATCH, len(faces)))
            for number, (done, found) in zip(batch, pool.map(work, batch), strict=True):
                written += done
                face = faces[number]
                for kind, text in found:
                    findings.add(kind, [Place(face.path, text, line=face.line)])
                if progress is not None:
                    progress(number + 1, len(faces))
    _report_unlisted(source, output, faces, findings)
    return written, findings


def _names(faces: list[Face], suffix: str) -> list[str]:
    """Return the path of each face in the output folder; empty for those that lead out of it."""
    taken: set[str] = set()
    names = []
    for face in faces:
        path = PurePosixPath(face.path)
        if path.is_absolute() or ".." in path.parts or not path.name:
            names.append("")
            continue
        stem, number = str(path.with_suffix("")), 1
        while (name := f"{stem}{f'-{number}' if number > 1 else ''}.{suffix}") in taken:
            number += 1
        taken.add(name)
        names.append(name)
    return names


def _align(
    source: Path, face: Face, target: Path, crop: Crop
) -> tuple[bool, list[tuple[str, str]]]:
    """Write a face; return whether that was possible, and what was found: kind and text."""
    try:
        transform = fit_similarity(face.points, TEMPLATE * (crop.size / TEMPLATE_SIZE))
    except AlignmentError as error:
        return False, [("landmarks", str(error))]
    try:
        # A pipe could be waited for, and a device read, for ever.
        if (source / face.path).exists() and not (source / face.path).is_file():
            raise AlignmentError("a folder, a pipe or a device: expected a file")
        with Image.open(source / face.path) as image:
            if image.mode[0] in "IF":
                raise AlignmentError(f"mode {image.mode} has more than 8 bits per channel")
            orientation = image.getexif().get(_ORIENTATION, 1)
            photo = image.convert("RGB")
    except Exception as error:  # Pillow's decoders raise nearly every kind for damaged bytes
        return False, [("photo", f"{type(error).__name__}: {error}")]
    found = _doubts(transform, face.points, photo, crop)
    if orientation != 1:
        found.append(("orientation", f"its orientation tag is {orientation}"))
    target.write_bytes(encode_face(crop_face(photo, transform, crop.size, crop.method), crop))
    return True, found


def encode_face(face: Image.Image, crop: Crop) -> bytes:
    """Return a face as the file that `crop` asks for."""
    stream = BytesIO()
    options = {"quality": crop.quality, "subsampling": 0} if crop.format == "jpg" else {}
    face.save(stream, _PILLOW_NAMES[crop.format], **options)
    return stream.getvalue()


def _doubts(
    transform: Similarity, points: Points, photo: Image.Image, crop: Crop
) -> list[tuple[str, str]]:
    """Return what about a face a person should look at: kind and text."""
    found = []
    if transform.mirrored:
        found.append(("mirrored", f"landmarks {points.round(1).tolist()}"))
    # The transform rotates a face back that is rotated clockwise.
    if abs(transform.degrees) > crop.max_tilt:
        found.append(("tilted", f"tilted by {transform.degrees:.0f} degrees"))
    if transform.error > _MISFIT * crop.size:
        found.append(("misfit", f"{transform.error:.1f} pixels from the template on average"))
    if (points < -0.5).any() or (points > np.array(photo.size) - 0.5).any():
        found.append(("outside", f"the photo has {photo.width}x{photo.height} pixels"))
    return found


def _report_unlisted(source: Path, output: Path, faces: list[Face], findings: Findings) -> None:
    listed = {str(PurePosixPath(face.path)) for face in faces}
    photos = sorted(
        path.relative_to(source).as_posix()
        for path in source.rglob("*")
        if path.suffix.lower() in IMAGE_SUFFIXES and output not in path.parents
    )
    unlisted = [Place(photo, "no face is listed") for photo in photos if photo not in listed]
    findings.add("unlisted", unlisted, len(unlisted))
