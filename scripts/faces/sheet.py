"""A contact sheet: faces in rows, each with a line of text."""

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

SIDE: Final = 112  # pixels of a face
MARGIN: Final = 6
LINE: Final = 14  # height of a line of text
COLUMNS: Final = 6
LETTERS: Final = 18  # that fit below a face


def contact_sheet(
    faces: Sequence[NDArray[np.uint8]], captions: Sequence[Sequence[str]]
) -> Image.Image:
    """Return faces uint8 [H, W, 3] side by side, each above the lines of its caption."""
    lines = max(map(len, captions))
    width, height = SIDE + MARGIN, SIDE + MARGIN + LINE * lines
    columns = min(COLUMNS, len(faces))
    rows = -(-len(faces) // columns)
    sheet = Image.new("RGB", (columns * width + MARGIN, rows * height + MARGIN), "white")
    draw = ImageDraw.Draw(sheet)
    for number, (face, caption) in enumerate(zip(faces, captions, strict=True)):
        x, y = MARGIN + number % columns * width, MARGIN + number // columns * height
        sheet.paste(Image.fromarray(face).resize((SIDE, SIDE), Image.Resampling.LANCZOS), (x, y))
        for line, text in enumerate(caption):
            short = text if len(text) <= LETTERS else "…" + text[1 - LETTERS :]
            draw.text((x, y + SIDE + line * LINE), short, fill="black")
    return sheet
