"""A contact sheet: faces in rows, each with lines of text, on one picture to look at."""

from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

SIDE: Final = 112  # pixels of a face
MARGIN: Final = 6
LINE: Final = 14  # height of a line of text
LETTERS: Final = 18  # that fit below a face


def contact_sheet(
    faces: Iterable[NDArray[np.uint8]], captions: Sequence[Sequence[str]], *, columns: int
) -> Image.Image:
    """Return faces, uint8 RGB [H, W, 3], in so many columns, each above the lines of its caption.

    Of a line that is too long the end is shown. There are as many faces as captions.
    """
    width, height = SIDE + MARGIN, SIDE + MARGIN + LINE * max(map(len, captions), default=0)
    columns = max(1, min(columns, len(captions)))
    rows = -(-len(captions) // columns)
    sheet = Image.new("RGB", (columns * width + MARGIN, rows * height + MARGIN), "white")
    draw = ImageDraw.Draw(sheet)
    for number, (face, caption) in enumerate(zip(faces, captions, strict=True)):
        x, y = MARGIN + number % columns * width, MARGIN + number // columns * height
        sheet.paste(Image.fromarray(face).resize((SIDE, SIDE), Image.Resampling.LANCZOS), (x, y))
        for line, text in enumerate(caption):
            short = text if len(text) <= LETTERS else "…" + text[1 - LETTERS :]
            draw.text((x, y + SIDE + line * LINE), short, fill="black")
    return sheet
