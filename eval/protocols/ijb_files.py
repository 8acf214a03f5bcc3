"""The files of IJB-B and IJB-C, in the form in which their metadata are published.

Shape legend: n faces, p pairs, t templates.

A template is a set of faces of one person, from one or several media (photos, or frames of one
video). Faces are numbered by line: line k of the face list, of the landmark list and row k of the
embeddings are one face, so two lists in different order are refused here.
"""

import csv
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from eval.protocols.rates import Floats, warn

Ids = NDArray[np.integer]

PAIR_CHUNK: Final = 1 << 18  # lines parsed at once: 6 MB
NAMED: Final = 10  # at most so many templates or faces are named in a message
LANDMARK_FIELDS: Final = 12


@dataclass(frozen=True)
class Faces:
    """The face list, `ijbc_face_tid_mid.txt`: one face a line."""

    images: tuple[str, ...]
    template_n: NDArray[np.int64]
    medium_n: NDArray[np.int64]


@dataclass(frozen=True)
class Landmarks:
    """The landmark list, `ijbc_name_5pts_score.txt`, in the order of the face list."""

    images: tuple[str, ...]
    points_n52: Floats  # eyes, nose, mouth corners as x, y in pixels of the loose crop
    detector_n: Floats  # score of the face detector


@dataclass(frozen=True)
class TemplatePairs:
    """The pairs of templates to compare, `ijbc_template_pair_label.txt`.

    Templates are named once and numbered, so that a pair takes nine bytes whatever its ids are.
    """

    id_u: NDArray[np.int64]  # the templates of all pairs, ascending
    first_p: NDArray[np.int32]  # as places in id_u
    second_p: NDArray[np.int32]
    same_p: NDArray[np.bool_]


@dataclass(frozen=True)
class Subjects:
    """Who each template of a gallery or of the probes is, in the order of the file."""

    template_t: NDArray[np.int64]
    subject_t: NDArray[np.int64]


@dataclass(frozen=True)
class IjbFiles:
    """Where the files of one set are."""

    faces: Path
    landmarks: Path
    pairs: Path
    galleries: dict[str, Path]  # by name: G1 and G2 of IJB-C, S1 and S2 of IJB-B
    probes: Path | None


def find_files(folder: Path) -> IjbFiles:
    """Return the files of the set whose `meta` folder this is; raise `ValueError` unless one."""

    def only(pattern: str) -> Path:
        found = sorted(folder.glob(pattern))
        if len(found) != 1:
            names = ", ".join(path.name for path in found) or "none"
            raise ValueError(f"{folder}: files {pattern}: {names}; expected one, of one IJB set")
        return found[0]

    faces = only("*_face_tid_mid.txt")
    name = faces.name.removesuffix("_face_tid_mid.txt")
    galleries = sorted(folder.glob(f"{name}_1N_gallery_*.csv"))
    probes = folder / f"{name}_1N_probe_mixed.csv"
    return IjbFiles(
        faces,
        only(f"{name}_name_5pts_score.txt"),
        only(f"{name}_template_pair_label.txt"),
        {path.stem.rpartition("_")[2]: path for path in galleries},
        probes if probes.exists() else None,
    )


@dataclass(frozen=True, eq=False)
class IjbLists:
    """What the files of a set hold, each read once."""

    faces: Faces
    landmarks: Landmarks  # of the same faces
    pairs: TemplatePairs
    galleries: dict[str, Subjects]
    probes: Subjects | None


def read_lists(files: IjbFiles) -> IjbLists:
    """Read all lists of a set; raises `ValueError` for what is missing or wrong in one."""
    faces, landmarks = read_faces(files.faces), read_landmarks(files.landmarks)
    check_same_faces(faces.images, landmarks.images)
    return IjbLists(
        faces,
        landmarks,
        read_pairs(files.pairs),
        {name: read_subjects(path) for name, path in files.galleries.items()},
        None if files.probes is None else read_subjects(files.probes),
    )


def read_faces(path: Path) -> Faces:
    """Return the face list: image, template and medium of each line.

    Raises `ValueError` for an empty file, and for a line of other fields, by its number.
    """
    images, numbers = [], []
    for place, fields in _lines(path, 3, "image template medium"):
        images.append(fields[0])
        numbers.append([_whole(field, place) for field in fields[1:]])
    _not_empty(len(numbers), path, "faces")
    if repeated := len(images) - len(set(images)):
        warn(f"{path}: {repeated} of {len(images)} lines repeat an image; each counts as a face")
    template_n, medium_n = np.array(numbers, dtype=np.int64).T
    return Faces(tuple(images), template_n, medium_n)


def read_landmarks(path: Path) -> Landmarks:
    """Return image, five landmarks and detector score of each line.

    Raises `ValueError` for an empty file, for a line of other fields, for numbers that are not
    finite, for a negative score, and for landmarks in a single point, which no crop can be made of.
    """
    images, numbers = [], []
    for place, fields in _lines(path, LANDMARK_FIELDS, "image x1 y1 … x5 y5 score"):
        try:
            values = [float(field) for field in fields[1:]]
        except ValueError:
            raise ValueError(f"{place}: {' '.join(fields)}: expected numbers") from None
        if not np.isfinite(values).all() or values[-1] < 0:
            raise ValueError(
                f"{place}: {fields[0]}: landmarks and score {' '.join(fields[1:])}: expected "
                "finite numbers, and a score of at least 0"
            )
        images.append(fields[0])
        numbers.append(values)
    _not_empty(len(numbers), path, "faces")
    numbers_nk = np.array(numbers, dtype=np.float64)
    points_n52 = numbers_nk[:, :-1].reshape(-1, 5, 2)
    in_one_n = (points_n52 == points_n52[:, :1]).all(axis=(1, 2))
    if in_one_n.any():
        raise ValueError(
            f"{path}: {in_one_n.sum()} of {len(images)} faces have all landmarks in a single "
            f"point: {shorten(images[i] for i in np.flatnonzero(in_one_n))}; expected five points"
        )
    return Landmarks(tuple(images), points_n52, numbers_nk[:, -1])


def check_same_faces(faces: tuple[str, ...], landmarks: tuple[str, ...]) -> None:
    """Raise `ValueError` unless both lists name the same images in the same order."""
    if len(faces) != len(landmarks):
        raise ValueError(
            f"{len(faces)} faces in the face list and {len(landmarks)} in the landmark list: "
            "expected the same faces in the same order"
        )
    for line, (face, landmark) in enumerate(zip(faces, landmarks, strict=True), 1):
        if face != landmark:
            raise ValueError(
                f"line {line}: {face} in the face list and {landmark} in the landmark list: "
                "expected the same faces in the same order"
            )


def read_pairs(path: Path) -> TemplatePairs:
    """Return the pairs of templates.

    Raises `ValueError` for an empty file, for a line of other fields, and for a label that is
    neither 0 nor 1.
    """
    chunks = []
    with path.open(encoding="utf-8-sig") as file:
        start = 1
        while lines := list(islice(file, PAIR_CHUNK)):
            chunks.append(_pair_rows(lines, path, start))
            start += len(lines)
    _not_empty(sum(len(ids_p2) for _, ids_p2, _ in chunks), path, "pairs")
    same_p = same_pairs(np.concatenate([label_p for _, _, label_p in chunks]))
    id_u = np.unique(np.concatenate([ids for ids, _, _ in chunks]))
    first_p, second_p = (
        np.concatenate([_places(id_u, ids)[ids_p2[:, side]] for ids, ids_p2, _ in chunks])
        for side in (0, 1)
    )
    return TemplatePairs(id_u, first_p, second_p, same_p)


def pairs_of(rows: Iterable[tuple[int, int, int]]) -> TemplatePairs:
    """Return pairs of rows of template, template and label, as `read_pairs` does of a file."""
    rows_p3 = np.array(list(rows), dtype=np.int64).reshape(-1, 3)
    id_u = np.unique(rows_p3[:, :2])
    first_p, second_p = (_places(id_u, rows_p3[:, side]) for side in (0, 1))
    return TemplatePairs(id_u, first_p, second_p, same_pairs(rows_p3[:, 2]))


def same_pairs(label_p: Ids) -> NDArray[np.bool_]:
    """Return labels as booleans; raise `ValueError` for one that is neither 0 nor 1."""
    wrong_p = (label_p != 0) & (label_p != 1)
    if wrong_p.any():
        values = shorten(str(label) for label in np.unique(label_p[wrong_p]))
        raise ValueError(
            f"{wrong_p.sum()} of {len(label_p)} pairs have the label {values}: expected 0 or 1"
        )
    same_p: NDArray[np.bool_] = label_p == 1
    return same_p


def read_subjects(path: Path) -> Subjects:
    """Return the subject of each template of a gallery or probe CSV, in the order of the file.

    Columns are found by the names TEMPLATE_ID and SUBJECT_ID; a template has a line for each of its
    faces. Raises `ValueError` for an empty file, a missing column, an id that is not a whole
    number, and a template with several subjects.
    """
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file)
        names = [name.strip().upper() for name in next(reader, [])]
        if missing := {"TEMPLATE_ID", "SUBJECT_ID"} - set(names):
            raise ValueError(
                f"{path}: no column {' and '.join(sorted(missing))}; found {', '.join(names)}"
            )
        columns = [names.index(name) for name in ("TEMPLATE_ID", "SUBJECT_ID")]
        rows = []
        for row in reader:
            place = f"{path}, line {reader.line_num}"
            if not any(field.strip() for field in row):
                continue
            if len(row) != len(names):
                raise ValueError(
                    f"{place}: {len(row)} fields: expected {len(names)}, as the header"
                )
            rows.append([_whole(row[column], place) for column in columns])
    _not_empty(len(rows), path, "templates")
    return subjects_of((template, subject) for template, subject in rows)


def subjects_of(rows: Iterable[tuple[int, int]]) -> Subjects:
    """Return the subject of each template; raise `ValueError` for a template with several."""
    subjects: dict[int, set[int]] = {}
    for template, subject in rows:
        subjects.setdefault(template, set()).add(subject)
    several = [
        f"{template} (subjects {', '.join(map(str, sorted(found)))})"
        for template, found in subjects.items()
        if len(found) > 1
    ]
    if several:
        raise ValueError(
            f"{len(several)} of {len(subjects)} templates have more than one subject: "
            f"{shorten(several)}; expected one"
        )
    return Subjects(
        np.array(list(subjects), dtype=np.int64),
        np.array([min(found) for found in subjects.values()], dtype=np.int64),
    )


def shorten(names: Iterable[object]) -> str:
    """Return the first names of a list for a message, and how many more there are."""
    all_names = [str(name) for name in names]
    more = len(all_names) - NAMED
    return ", ".join(all_names[:NAMED]) + (f" and {more} more" if more > 0 else "")


def _pair_rows(
    lines: list[str], path: Path, start: int
) -> tuple[NDArray[np.int64], NDArray[np.int32], Ids]:
    """Return the ids in some lines, both templates of each pair as places in them, and labels.

    Of a line that is no pair, raise an error with its number.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", DeprecationWarning)  # a label such as 1.0
            warnings.filterwarnings("ignore", "loadtxt: input contained no data")
            rows_p3 = np.loadtxt(lines, dtype=np.int64, comments=None, ndmin=2)
        if rows_p3.size and rows_p3.shape[1] != 3:
            raise ValueError(f"{path}: {rows_p3.shape[1]} fields: expected 3")
    except (ValueError, DeprecationWarning):
        for place, fields in _split(lines, path, start, 3, "template template label"):
            for field in fields:
                _whole(field, place)
        raise
    rows_p3 = rows_p3.reshape(-1, 3)
    ids = np.unique(rows_p3[:, :2])
    label_p: Ids = rows_p3[:, 2].copy()
    if ((small_p := label_p.astype(np.int8)) == label_p).all():
        label_p = small_p  # not so for a wrong one, which the message names
    return ids, _places(ids, rows_p3[:, :2]), label_p


def _places(id_u: NDArray[np.int64], ids: NDArray[np.int64]) -> NDArray[np.int32]:
    return np.searchsorted(id_u, ids).astype(np.int32)


def _lines(path: Path, fields: int, form: str) -> Iterator[tuple[str, list[str]]]:
    """Yield place and fields of each line that is not blank."""
    with path.open(encoding="utf-8-sig") as file:
        yield from _split(file, path, 1, fields, form)


def _split(
    lines: Iterable[str], path: Path, start: int, fields: int, form: str
) -> Iterator[tuple[str, list[str]]]:
    for number, line in enumerate(lines, start):
        found = line.split()
        if found and len(found) != fields:
            raise ValueError(
                f"{path}, line {number}: {len(found)} fields: expected {fields}: {form}"
            )
        if found:
            yield f"{path}, line {number}", found


def _whole(field: str, place: str) -> int:
    try:
        return int(field)
    except ValueError:
        raise ValueError(f"{place}: {field!r}: expected a whole number") from None


def _not_empty(rows: int, path: Path, what: str) -> None:
    if not rows:
        raise ValueError(f"{path}: no {what}; expected at least one line")
