"""The faces that were cut, on one picture to look at."""

from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from data.contact_sheet import contact_sheet
from data.detection.job import written_faces
from data.files import atomic_write

_MOST: Final = 400  # faces on a sheet
_COLUMNS: Final = 10


def write_sheet(output: Path, sheet: Path) -> tuple[int, int]:
    """Write a PNG of the faces in `output`; return how many it shows, and how many are gone.

    It shows 400 at most, evenly spread over the list; below each stand its name and its score. Of
    faces that were all moved away since they were listed there is no PNG.
    """
    listed = list(written_faces(output))
    every = [cells for cells in listed if (output / cells["face"]).is_file()]
    gone = len(listed) - len(every)
    if not every:
        return 0, gone
    count = min(len(every), _MOST)
    shown = [every[number * len(every) // count] for number in range(count)]
    captions = [(cells["face"], f"{float(cells['score']):.2f}") for cells in shown]
    faces = (_read(output / cells["face"]) for cells in shown)
    with atomic_write(sheet) as file:
        contact_sheet(faces, captions, columns=_COLUMNS).save(file, "PNG")
    return count, gone


def _read(file: Path) -> NDArray[np.uint8]:
    with Image.open(file) as face:
        return np.asarray(face.convert("RGB"), np.uint8)
