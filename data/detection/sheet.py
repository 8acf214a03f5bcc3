"""A contact sheet: the faces that were cut, on one picture to look at."""

from pathlib import Path
from typing import Final

from PIL import Image, ImageDraw, ImageFont

from data.detection.job import written_faces
from data.files import atomic_write
from recognition.redaction import printable

_MOST: Final = 400  # faces on a sheet
_TILE, _TEXT, _GAP = 112, 14, 4  # pixels
_COLUMNS: Final = 10


def write_sheet(output: Path, sheet: Path) -> int:
    """Write a PNG of the faces in `output` and return how many it shows.

    It shows 400 at most, evenly spread over the list; below each stand its name and its score.
    """
    every = list(written_faces(output))
    count = min(len(every), _MOST)
    shown = [every[number * len(every) // count] for number in range(count)]
    columns = min(_COLUMNS, max(count, 1))
    rows = -(-count // columns)
    size = (columns * (_TILE + _GAP) + _GAP, rows * (_TILE + _TEXT + _GAP) + _GAP)
    canvas = Image.new("RGB", size, (32, 32, 32))
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=10)
    for number, cells in enumerate(shown):
        left = _GAP + number % columns * (_TILE + _GAP)
        top = _GAP + number // columns * (_TILE + _TEXT + _GAP)
        with Image.open(output / cells["face"]) as face:
            canvas.paste(face.convert("RGB").resize((_TILE, _TILE)), (left, top))
        text = f"{float(cells['score']):.2f} {printable(cells['face'])[-14:]}"
        draw.text((left, top + _TILE), text, (220, 220, 220), font)
    with atomic_write(sheet) as file:
        canvas.save(file, "PNG")
    return count
