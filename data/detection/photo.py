"""Opens a photo as people have them: of any kind, any size, held any way."""

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

from data.files import file_lock

MOST_PIXELS: Final = 178_000_000  # where Pillow refuses a file as an attack
_HEIC: Final = re.compile(rb"....ftyp(hei|hev|mif1|msf1)", re.DOTALL)  # how such files begin
_LARGE: Final = 30_000_000  # pixels of a photo that is opened alone
_ORIENTATION: Final = 0x0112  # the EXIF tag
_TURNS: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class PhotoError(ValueError):
    """A photo that cannot be used; `reason` is a name from `choice.REASONS`."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


@dataclass(frozen=True)
class Photo:
    """A photo the right way up, in RGB; `small` is the copy in which faces are looked for."""

    full: Image.Image
    small: Image.Image

    @property
    def reduction(self) -> tuple[float, float]:
        """Pixels of the photo per pixel of the small copy, across and down."""
        return self.full.width / self.small.width, self.full.height / self.small.height


@contextmanager
def opening(path: Path, side: int, alone: Path | None = None) -> Iterator[Photo]:
    """Yield a photo, its small copy at most `side` pixels long.

    A photo of more than 30 megapixels is open only while this process holds the lock `alone`, so
    that the memory of many workers stays that of one such photo.

    Raises `PhotoError` for whatever is no photo.
    """
    if not path.is_file():  # a pipe could be waited for, and a device read, for ever
        raise PhotoError("unreadable", "a link to nothing, a pipe or a device: expected a file")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of large files, and of metadata that makes no sense
        try:
            with Image.open(path) as image:
                large = image.width * image.height > _LARGE
        except Exception as error:  # Pillow's decoders raise nearly every kind for damaged bytes
            if _is_heic(path):
                raise PhotoError("unreadable", "HEIC is not read: convert it to JPEG") from error
            raise _as_photo_error(error) from error
        lock = file_lock(alone) if large and alone is not None else nullcontext()
        with lock:
            try:
                with Image.open(path) as image:
                    full = _upright(image)
            except Exception as error:
                raise _as_photo_error(error) from error
            yield Photo(full, _reduced(full, side))


def _is_heic(path: Path) -> bool:
    """Return whether a file is HEIC by its content: phones' photos may be called .jpg."""
    try:
        with path.open("rb") as file:
            return _HEIC.match(file.read(12)) is not None
    except OSError:
        return False


def _as_photo_error(error: Exception) -> PhotoError:
    if isinstance(error, PhotoError):
        return error
    if isinstance(error, Image.DecompressionBombError):
        return PhotoError("too_large", f"more than {MOST_PIXELS:,} pixels: reduce it first")
    return PhotoError("unreadable", f"{type(error).__name__}: {error}")


def _upright(image: Image.Image) -> Image.Image:
    """Return an image in RGB, 16 bits reduced to 8, turned as its orientation tag says."""
    image.load()  # before the tag is read: Pillow turns a TIFF as it loads it
    turn = _TURNS.get(image.getexif().get(_ORIENTATION, 1))
    if image.mode == "F":
        raise PhotoError("unreadable", "mode F: expected 8 or 16 bits per channel")
    if image.mode[0] == "I":
        deep = np.asarray(image)
        if deep.min() < 0 or deep.max() > 0xFFFF:
            raise PhotoError("unreadable", f"mode {image.mode}: expected 8 or 16 bits per channel")
        image = Image.fromarray((deep >> 8).astype(np.uint8))
    full = image if image.mode == "RGB" else image.convert("RGB")
    return full if turn is None else full.transpose(turn)


def _reduced(image: Image.Image, side: int) -> Image.Image:
    longest = max(image.size)
    if longest <= side:
        return image
    width, height = (max(1, round(length * side / longest)) for length in image.size)
    return image.resize((width, height), Image.Resampling.BOX, reducing_gap=2)
