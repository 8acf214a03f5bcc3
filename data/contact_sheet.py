"""A contact sheet: faces in rows, each with lines of text, on one picture to look at."""

import unicodedata
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

SIDE: Final = 112  # pixels of a face
MARGIN: Final = 6
LINE: Final = 14  # height of a line of text
FONTS: Final = (
    "NotoSansCJK-Regular.ttc",
    "Arial Unicode.ttf",
    "msyh.ttc",
    "DejaVuSans.ttf",
    "LiberationSans-Regular.ttf",
    "arial.ttf",
)
"""Fonts that Linux, macOS and Windows come with, the one with the most scripts first."""
_SIZE: Final = 10  # of their letters, in pixels
_NO_LETTER: Final = "\U0010ffff"  # that no font has

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def contact_sheet(
    faces: Iterable[NDArray[np.uint8]], captions: Sequence[Sequence[str]], *, columns: int
) -> Image.Image:
    r"""Return faces, uint8 RGB [H, W, 3], in so many columns, each above the lines of its caption.

    Of a line that is too long the end is shown; a letter that the font lacks, or that cannot be
    drawn, is escaped, as `\u738b`. There are as many faces as captions.
    """
    font = _font()
    width, height = SIDE + MARGIN, SIDE + MARGIN + LINE * max(map(len, captions), default=0)
    columns = max(1, min(columns, len(captions)))
    rows = -(-len(captions) // columns)
    sheet = Image.new("RGB", (columns * width + MARGIN, rows * height + MARGIN), "white")
    draw = ImageDraw.Draw(sheet)
    for number, (face, caption) in enumerate(zip(faces, captions, strict=True)):
        x, y = MARGIN + number % columns * width, MARGIN + number // columns * height
        sheet.paste(Image.fromarray(face).resize((SIDE, SIDE), Image.Resampling.LANCZOS), (x, y))
        for line, text in enumerate(caption):
            place = (x, y + SIDE + line * LINE)
            draw.text(place, _fitting(_shown(text, font), font), fill="black", font=font)
    return sheet


@cache
def _font() -> Font:
    """Return the first of `FONTS` that this machine has, or else Pillow's, with Latin-1."""
    for name in FONTS:
        try:
            return ImageFont.truetype(name, _SIZE)
        except OSError:  # it is not there
            continue
    # The default itself lacks accents; Pillow before 10.4 has nothing else.
    default: Callable[[], Font] = getattr(
        ImageFont, "load_default_imagefont", ImageFont.load_default
    )
    return default()


def _shown(text: str, font: Font) -> str:
    """Return `text` with escapes for what the font cannot show."""
    composed = unicodedata.normalize("NFC", text)  # macOS keeps accents apart from their letters
    return "".join(letter if _has(font, letter) else ascii(letter)[1:-1] for letter in composed)


@cache
def _has(font: Font, letter: str) -> bool:
    if not letter.isprintable():
        return False
    try:
        return bytes(font.getmask(letter)) != bytes(font.getmask(_NO_LETTER))
    except UnicodeEncodeError:  # a font of Latin-1
        return letter <= "\xff"


def _fitting(text: str, font: Font) -> str:
    """Return `text`, or as much of its end as fits below a face."""
    short = text
    while font.getlength(short) > SIDE:
        text = text[1:]
        short = f"...{text}"
    return short
