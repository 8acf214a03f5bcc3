from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image, ImageChops

from data import contact_sheet as module
from data.contact_sheet import MARGIN, SIDE, contact_sheet

FACE = np.zeros((SIDE, SIDE, 3), np.uint8)


@pytest.fixture(params=["of the machine", "of Pillow"])
def _fonts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    if request.param == "of Pillow":
        monkeypatch.setattr(module, "FONTS", ())
    module._font.cache_clear()
    yield
    module._font.cache_clear()


def caption(text: str) -> Image.Image:
    """Return what a sheet shows below a face."""
    sheet = contact_sheet([FACE], [[text]], columns=1)
    return sheet.crop((0, MARGIN + SIDE, *sheet.size)).convert("L")


@pytest.mark.usefixtures("_fonts")
def test_letters_with_accents_are_drawn() -> None:
    letters = "äéñÅÇøß"
    pictures = [caption(letter).tobytes() for letter in letters]
    assert len(set(pictures)) == len(letters)
    for letter in letters:
        assert caption(letter).tobytes() != caption(ascii(letter)[1:-1]).tobytes()
    assert caption("u\u0308").tobytes() == caption("ü").tobytes()


@pytest.mark.usefixtures("_fonts")
@pytest.mark.parametrize("letter", ["\U00013000", "\x1b", "\n", "\u202e", "\udcff"])
def test_what_cannot_be_drawn_is_escaped(letter: str) -> None:
    assert caption(f"a{letter}b").tobytes() == caption(f"a{ascii(letter)[1:-1]}b").tobytes()


def test_without_a_font_of_the_machine_other_scripts_are_escaped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "FONTS", ("none.ttf",))
    module._font.cache_clear()
    assert caption("Ł王").tobytes() == caption("\\u0141\\u738b").tobytes()
    module._font.cache_clear()


@pytest.mark.usefixtures("_fonts")
@pytest.mark.parametrize("letter", ["W", "i", "ü"])
def test_of_a_long_line_the_end_is_shown(letter: str) -> None:
    assert caption(f"{letter * 99}7.jpg").tobytes() == caption(f"{letter * 80}7.jpg").tobytes()
    shown = ImageChops.invert(caption(f"{letter * 99}7.jpg")).getbbox()
    assert shown is not None
    assert 0.8 * SIDE < shown[2] <= MARGIN + SIDE + 1
