"""Decodes images, a batch at a time into one array.

JPEGs are decoded with libjpeg-turbo's exact integer transform and smooth chroma upsampling, whose
pixels equal Pillow's and are the same on every machine. Its faster modes gain 6% at most.
"""

from io import BytesIO

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError
from simplejpeg import decode_jpeg, decode_jpeg_header

from data.datasets.sources import ImageSource
from data.loading.decode_limits import check_jpeg, check_other, check_size
from data.records.format import Bytes

_FORMATS = ("BMP", "JPEG", "PNG", "WEBP")
_JPEG_START = b"\xff\xd8"


class BadImage(ValueError):  # noqa: N818 - the name that messages use, too
    """Bytes that cannot be decoded as an image; the message says where they come from."""


def decode_batch(
    source: ImageSource,
    indices: npt.NDArray[np.int64],
    image_size: int,
    out: npt.NDArray[np.uint8] | None = None,
) -> npt.NDArray[np.uint8]:
    """Return the images at `indices`, int64 [b], as RGB: uint8 [b, S, S, 3], S = `image_size`.

    They are written into `out`, contiguous and of that shape, if it is given. Grey images get three
    equal channels. Images of another size are resized without cropping, which stretches those that
    are not square. Orientation tags are ignored (as in MXNet).

    Raises `BadImage`, with what `source.describe` returns, for bytes that cannot be decoded to the
    end, and for images beyond the limits of `data.loading.decode_limits`, before they take memory.
    """
    if out is None:
        out = np.empty((len(indices), image_size, image_size, 3), np.uint8)
    for row, index in zip(out, indices.tolist(), strict=True):
        decode_at(source, index, row)
    return out


def decode_at(source: ImageSource, index: int, image: npt.NDArray[np.uint8]) -> None:
    """Decode the image at `index` into `image`, uint8 [S, S, 3]; raises as `decode_batch`."""
    encoded = source.encoded(index)
    try:
        decode_into(image, encoded)
    except BadImage as error:
        raise BadImage(
            f"{source.describe(index)}: {error}; replace the image or leave it out"
        ) from error


def decode_into(image: npt.NDArray[np.uint8], encoded: Bytes) -> None:
    """Decode one image into `image`, uint8 [H, W, 3], contiguous, and resize it if need be.

    Raises `BadImage`.
    """
    try:
        if encoded[:2] == _JPEG_START:
            _decode_jpeg_into(image, encoded)
        else:
            _resize_into(image, _open_other(encoded))
    except (BadImage, MemoryError):  # memory runs out for another reason: images are limited
        raise
    except Exception as error:  # for damaged bytes Pillow raises nearly any kind
        start = bytes(encoded[:12])
        # Instead of a reason Pillow may name the BytesIO object.
        reason = "not recognised" if isinstance(error, UnidentifiedImageError) else error
        raise BadImage(
            f"cannot decode {len(encoded)} bytes that start with {start!r} as a JPEG, PNG, BMP "
            f"or WebP image: {reason}"
        ) from error


def encoded_size(encoded: Bytes) -> tuple[int, int]:
    """Return the width and height in an image's header, without decoding the image.

    Raises a `ValueError` or `OSError` if there is no readable header.
    """
    if encoded[:2] == _JPEG_START:
        height, width, _, _ = decode_jpeg_header(encoded)
        return int(width), int(height)
    return Image.open(BytesIO(encoded), formats=_FORMATS).size


def _decode_jpeg_into(image: npt.NDArray[np.uint8], encoded: Bytes) -> None:
    # simplejpeg 1.9 leaks 4,400 bytes for every image that is larger than the buffer it is given.
    # Reading the header first takes 1.3 us; decoding 112x112 pixels takes 80 or more.
    height, width, _, _ = decode_jpeg_header(encoded)
    check_jpeg(encoded, width, height)
    if (height, width) == image.shape[:2]:
        decode_jpeg(encoded, "RGB", buffer=image)
    else:
        _resize_into(image, Image.fromarray(decode_jpeg(encoded, "RGB")))


def _open_other(encoded: Bytes) -> Image.Image:
    """Open an image and check its size before its pixels take memory."""
    check_other(encoded)
    image = Image.open(BytesIO(encoded), formats=_FORMATS)
    check_size(*image.size)
    if image.format == "BMP" and image.tile[0].codec_name == "bmp_rle":
        raise BadImage("a BMP with run-length encoding, which is slow to read: save it without")
    if image.mode[0] in "IF":
        raise BadImage(f"mode {image.mode} has more than 8 bits per channel: convert it to 8")
    return image.convert("RGB")


def _resize_into(pixels: npt.NDArray[np.uint8], image: Image.Image) -> None:
    """Resize with Pillow's Lanczos filter, which averages where it shrinks."""
    height, width, _ = pixels.shape
    pixels[:] = np.asarray(image.resize((width, height), Image.Resampling.LANCZOS))
