"""Recognises encoded images by their first and last bytes, and re-encodes them."""

from io import BytesIO
from typing import Literal, get_args

import numpy as np
import simplejpeg
from PIL import Image

from data.loading.decode import BadImage, decode_into, encoded_size
from data.loading.decode_limits import MAX_SIDE
from data.records.format import Bytes

Encoding = Literal["jpeg", "png"]
ENCODINGS: tuple[Encoding, ...] = get_args(Encoding)

_JPEG_SCAN, _JPEG_END = b"\xff\xda", b"\xff\xd9"
_PNG_END = b"IEND\xae\x42\x60\x82"


def suffix_of(encoded: Bytes) -> str | None:
    """Return `.jpg`, `.png`, `.webp` or `.bmp` by the first bytes, None if they are others."""
    start = bytes(encoded[:16])
    if start.startswith(b"\xff\xd8\xff"):
        return ".jpg"
    if start.startswith(b"\x89PNG\r\n\x1a\n"):
        return ".png"
    if start.startswith(b"RIFF") and start[8:12] == b"WEBP":
        return ".webp"
    return ".bmp" if start.startswith(b"BM") else None


def pixel_size(encoded: Bytes) -> tuple[int, int] | None:
    """Return width and height from the header, None if it cannot be read."""
    try:
        return encoded_size(encoded)
    except Exception:  # Pillow raises nearly every kind for damaged bytes
        return None


def check_whole(encoded: Bytes) -> tuple[int, int]:
    """Return width and height of an image whose first and last bytes show that it is whole.

    Takes microseconds; decoding takes a hundred. Raises `BadImage` for bytes that are not a JPEG,
    PNG, WebP or BMP, for a header that cannot be read, for an image that is truncated, and for one
    of more than `MAX_SIDE` pixels per side, which training would refuse.
    """
    suffix = suffix_of(encoded)
    if suffix is None:
        what = "is empty" if len(encoded) == 0 else f"starts with {bytes(encoded[:12])!r}"
        raise BadImage(f"{what}: expected a JPEG, PNG, WebP or BMP image")
    content = bytes(encoded)
    declared = len(content)
    if suffix == ".webp":
        declared = 8 + int.from_bytes(content[4:8], "little")
    elif suffix == ".bmp":
        declared = int.from_bytes(content[2:6], "little")
    ended = declared <= len(content)
    if suffix == ".jpg":
        # Compressed data contains neither marker, so the end belongs to the last scan. The first
        # test is quick, and true for nearly all images.
        ended = content.endswith(_JPEG_END) or (
            content.rfind(_JPEG_END) > content.rfind(_JPEG_SCAN)
        )
    elif suffix == ".png":
        ended = _PNG_END in content
    if not ended:
        raise BadImage(f"is a {suffix[1:]} image truncated after {len(content)} bytes")
    size = pixel_size(encoded)
    if size is None:
        raise BadImage(f"its {suffix[1:]} header cannot be read ({len(encoded)} bytes)")
    if max(size) > MAX_SIDE:
        raise BadImage(f"has {size[0]}x{size[1]} pixels: expected at most {MAX_SIDE} per side")
    return size


def reencode(encoded: Bytes, *, size: int | None, encoding: Encoding | None, quality: int) -> bytes:
    """Return the image in another size, another format, or both.

    The whole image is stretched to `size` pixels on both sides, as training would do; None keeps
    its size. An `encoding` of None keeps an image of this size byte for byte, and writes others as
    JPEG. Its `quality` is 1 to 100, and the chroma is not subsampled.

    Raises `BadImage` for an image that cannot be decoded to the end.
    """
    found = check_whole(encoded)
    width, height = found if size is None else (size, size)
    pixels = np.empty((height, width, 3), np.uint8)
    decode_into(pixels, encoded)
    if encoding is None and found == (width, height):
        return bytes(encoded)
    if encoding == "png":
        buffer = BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        return buffer.getvalue()
    jpeg: bytes = simplejpeg.encode_jpeg(pixels, quality)
    return jpeg
