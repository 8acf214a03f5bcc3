import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.detection import photo
from data.detection.photo import PhotoError, opening


def quarters(size: tuple[int, int] = (64, 32)) -> Image.Image:
    """Return a red, a green, a blue and a white quarter, row by row."""
    image = Image.new("RGB", size, (255, 255, 255))
    half = (size[0] // 2, size[1] // 2)
    for colour, place in (((255, 0, 0), (0, 0)), ((0, 255, 0), (1, 0)), ((0, 0, 255), (0, 1))):
        image.paste(colour, (place[0] * half[0], place[1] * half[1], *(
            (place[0] + 1) * half[0], (place[1] + 1) * half[1])))  # fmt: skip
    return image


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_photos_are_held_upright(tmp_path: Path, orientation: int, suffix: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = quarters()
    path = tmp_path / f"x.{suffix}"
    stored.save(path, exif=exif, quality=95)
    with opening(path, 32) as opened:
        # Where the stored first row and first column are seen, by the EXIF standard.
        sides = {
            1: "top left",
            2: "top right",
            3: "bottom right",
            4: "bottom left",
            5: "left top",
            6: "right top",
            7: "right bottom",
            8: "left bottom",
        }[orientation]
        row, column = sides.split()
        turned = orientation > 4
        assert opened.full.size == ((32, 64) if turned else (64, 32))
        width, height = opened.full.size
        x = {"left": 3, "right": width - 4}.get(row if turned else column)
        y = {"top": 3, "bottom": height - 4}.get(column if turned else row)
        assert x is not None
        assert y is not None
        red = opened.full.getpixel((x, y))
        assert isinstance(red, tuple)
        assert red[0] > 200
        assert red[1] < 60
        assert max(opened.small.size) == 32
        assert opened.reduction == (2, 2)


@pytest.mark.parametrize("mode", ["L", "1", "P", "LA", "RGBA", "CMYK", "I;16", "RGB"])
def test_every_kind_of_pixels_becomes_rgb(tmp_path: Path, mode: str) -> None:
    grey = Image.new("L", (40, 40), 255)
    grey.paste(0, (0, 0, 20, 40))
    if mode == "I;16":
        image = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    else:
        image = grey.convert("RGB").convert(mode)
    path = tmp_path / ("x.jpg" if mode == "CMYK" else "x.png")
    image.save(path)
    with opening(path, 1024) as opened:
        assert opened.full.mode == "RGB"
        assert opened.small is opened.full
        left, right = opened.full.getpixel((5, 5)), opened.full.getpixel((35, 5))
        assert isinstance(left, tuple)
        assert isinstance(right, tuple)
        assert max(left) < 10
        assert min(right) > 245


def test_what_is_no_photo_has_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.BytesIO()
    Image.effect_noise((64, 64), 50).convert("RGB").save(stream, "JPEG")
    files = {
        "cut.jpg": stream.getvalue()[:-400],
        "head.jpg": stream.getvalue()[:100],
        "text.png": b"hello",
        "empty.png": b"",
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    Image.new("F", (9, 9), 0.5).save(tmp_path / "float.tif")
    Image.new("I", (9, 9), 1 << 20).save(tmp_path / "deep.tif")
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "link.jpg").symlink_to("nowhere")
    for name in (*files, "float.tif", "deep.tif", "pipe.jpg", "link.jpg"):
        with pytest.raises(PhotoError) as caught, opening(tmp_path / name, 64):
            pass
        assert caught.value.reason == "unreadable", name
    Image.new("RGB", (40, 40)).save(tmp_path / "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 700)
    with pytest.raises(PhotoError) as caught, opening(tmp_path / "large.png", 64):
        pass
    assert caught.value.reason == "too_large"


@pytest.mark.parametrize("name", ["x.heic", "x.HEIF", "x.jpg"])
@pytest.mark.parametrize("brand", [b"heic", b"heix", b"hevc", b"mif1"])
def test_heic_is_to_be_converted(tmp_path: Path, name: str, brand: bytes) -> None:
    (tmp_path / name).write_bytes(b"\0\0\0\x18ftyp" + brand + bytes(4) + b"mif1" + brand)
    with pytest.raises(PhotoError) as caught, opening(tmp_path / name, 64):
        pass
    assert str(caught.value) == "HEIC is not read: convert it to JPEG"
    assert caught.value.reason == "unreadable"


def test_a_large_photo_is_open_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from data.files import file_lock

    monkeypatch.setattr(photo, "_LARGE", 99)
    Image.new("RGB", (10, 10)).save(tmp_path / "x.png")
    lock = tmp_path / "lock"
    with (
        opening(tmp_path / "x.png", 64, lock),
        pytest.raises(BlockingIOError),
        file_lock(lock, wait=False),
    ):
        pass
    Image.new("RGB", (9, 10)).save(tmp_path / "x.png")
    with opening(tmp_path / "x.png", 64, lock), file_lock(lock, wait=False):
        pass
