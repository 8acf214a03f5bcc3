"""The files of MegaFace: lists of photos, lists of noise, one feature file per photo.

`facescrub_features_list.json` holds the paths of the probe photos and who is on each,
`megaface_features_list.json_<size>_1` the paths of that many distractors. Noise lists have a name
per line, alone or after a number and a tab; `#` starts a comment. They name probe photos by file
name, and distractors by path. A feature file is an OpenCV matrix of one row or column: four int32
(rows, columns, bytes, type) and the float32 numbers.
"""

import json
import os
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from eval.protocols.rates import warn

Floats32 = NDArray[np.float32]
Bools = NDArray[np.bool_]

BLOCK: Final = 4096  # feature files per block
_FLOAT32: Final = 5  # OpenCV's number for a matrix of float32
_HEADER: Final = 16  # bytes
_NAMES: Final = 10  # in a warning


def read_photo_list(path: Path) -> list[str]:
    """Return the paths of the photos in a list; raises `ValueError` for another file."""
    return _texts(path, _read_json(path), "path")


def read_probe_list(path: Path) -> tuple[list[str], list[str]]:
    """Return the paths of the probe photos and who is on each; raises `ValueError`."""
    content = _read_json(path)
    paths, people = (_texts(path, content, key) for key in ("path", "id"))
    if len(paths) != len(people):
        raise ValueError(
            f"{path}: {len(paths)} entries of 'path' and {len(people)} of 'id': expected equally "
            "many; download the list again"
        )
    return paths, people


def read_noise_list(path: Path) -> set[str]:
    """Return the names in a noise list; raises `ValueError` with the first line that has none."""
    names = set()
    for number, line in enumerate(_read_text(path).splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        cells = [cell.strip() for cell in line.split("\t")]
        if len(cells) > 2 or not cells[-1] or (len(cells) == 2 and not cells[0].isdecimal()):
            raise ValueError(
                f"{path}, line {number}: found {line[:80]!r}, expected a name, or a number, a tab "
                "and a name"
            )
        names.add(cells[-1])
    return names


def noisy_probes(paths: Sequence[str], noise: Collection[str]) -> Bools:
    """Return which probe photos are noise, bool [n], by their file names.

    Warns of names that no photo has: these rows of the noise list change nothing.
    """
    found = [os.path.basename(path) for path in paths]
    if unknown := sorted(set(noise) - set(found)):
        warn(
            f"{len(unknown)} of {len(noise)} names of noise belong to none of the {len(paths)} "
            f"probe photos: {', '.join(unknown[:_NAMES])}; expected file names as in the list of "
            "photos"
        )
    return np.array([name in noise for name in found], dtype=np.bool_)


def noisy_distractors(paths: Sequence[str], noise: Collection[str]) -> Bools:
    """Return which distractors are noise, bool [D], by their paths.

    A noise list covers the million, and a smaller set has a part of it: names that are not among
    `paths` are normal.
    """
    return np.array([path in noise for path in paths], dtype=np.bool_)


def read_feature(path: Path) -> Floats32:
    """Return the numbers of a feature file, float32 [d]; raises `ValueError` for another file.

    The third number of the header is the bytes per row, or 4 as insightface writes it.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error}; extract this feature again") from error
    header = np.frombuffer(content[:_HEADER], "<i4") if len(content) >= _HEADER else np.zeros(4)
    rows, columns, size, kind = (int(value) for value in header)
    if (
        min(rows, columns) != 1
        or size not in (4 * columns, 4)
        or kind != _FLOAT32
        or len(content) != _HEADER + 4 * rows * columns
    ):
        raise ValueError(
            f"{path}: {len(content)} bytes with the header {[rows, columns, size, kind]}: expected "
            f"[d, 1, 4, {_FLOAT32}] or [1, d, 4 * d, {_FLOAT32}] and then 4 * d bytes; extract "
            "this feature again"
        )
    return np.frombuffer(content, "<f4", offset=_HEADER).astype(np.float32)


def read_features(
    folder: Path,
    paths: Sequence[str],
    ending: str,  # of the files after the photos' paths: `_<name of the network>.bin`
) -> Iterator[Floats32]:
    """Yield the features of these photos in blocks, float32 [up to `BLOCK`, d].

    Raises `ValueError` for a file that is missing, is damaged or has another size than the first.
    """
    size: int | None = None
    for start in range(0, len(paths), BLOCK):
        features = []
        for name in paths[start : start + BLOCK]:
            file = folder / f"{name}{ending}"
            features.append(read_feature(file))
            size = size or len(features[-1])
            if len(features[-1]) != size:
                raise ValueError(
                    f"{file}: {len(features[-1])} numbers: expected {size}, as in the first file; "
                    "extract all features with one network"
                )
        yield np.stack(features)


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeError) as error:
        raise ValueError(f"{path} cannot be read as text: {error}; copy it again") from error


def _read_json(path: Path) -> Any:
    try:
        return json.loads(_read_text(path))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} cannot be read as JSON: {error}; copy it again") from error


def _texts(path: Path, content: Any, key: str) -> list[str]:
    values = content.get(key) if isinstance(content, dict) else None
    if not isinstance(values, list) or not values or not all(isinstance(v, str) for v in values):
        raise ValueError(
            f"{path}: found {str(values)[:80]}, expected {key!r} with a list of texts; use the "
            "list of the development kit"
        )
    if key == "path" and len(set(values)) != len(values):
        raise ValueError(
            f"{path}: {len(values) - len(set(values))} of {len(values)} paths are listed more than "
            "once: expected each once; remove the repeated ones"
        )
    return values
