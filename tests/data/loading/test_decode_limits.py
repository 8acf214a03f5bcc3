"""Small files that would take gigabytes or minutes to decode."""

import struct
import time
import zlib
from typing import Any

import numpy as np
import pytest

from data.loading.decode import BadImage, decode_into
from data.loading.decode_limits import MAX_BYTES, MAX_CHUNKS, MAX_SCANS, MAX_SIDE
from tests.data.image_samples import encode_pixels


def encode(kind: str, side: int = 112, **options: Any) -> bytes:
    return encode_pixels(np.full((side, side, 3), (200, 100, 50), np.uint8), kind, **options)


PNG, WEBP, BMP = (encode(kind) for kind in ("PNG", "WEBP", "BMP"))
PNG_HEADER = 8 + 25  # the magic and the chunk IHDR


def decode(encoded: bytes) -> np.ndarray:
    image = np.empty((112, 112, 3), np.uint8)
    decode_into(image, encoded)
    return image


def jpeg_of_scans(count: int, side: int) -> bytes:
    """Return a progressive JPEG whose last scan is repeated until there are `count`."""
    encoded = encode("JPEG", side, progressive=True)
    scan = encoded[encoded.rindex(b"\xff\xda") : -2]
    return encoded[:-2] + scan * (count - encoded.count(b"\xff\xda")) + encoded[-2:]


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return (
        struct.pack(">I", len(content)) + kind + content
        + struct.pack(">I", zlib.crc32(kind + content))
    )  # fmt: skip


def png_with(*chunks: bytes) -> bytes:
    return PNG[:PNG_HEADER] + b"".join(chunks) + PNG[PNG_HEADER:]


def packed(size: int) -> bytes:
    return b"name\0\0" + zlib.compress(bytes(size), 9)


def webp_of_canvas(width: int, height: int) -> bytes:
    sides = b"".join((side - 1).to_bytes(3, "little") for side in (width, height))
    content = b"WEBPVP8X" + struct.pack("<I", 10) + bytes(4) + sides + WEBP[12:]
    return b"RIFF" + struct.pack("<I", len(content)) + content


def webp_of_frame(width: int, height: int) -> bytes:
    return WEBP[:26] + struct.pack("<HH", width, height) + WEBP[30:]


def lossless_webp(width: int, height: int) -> bytes:
    encoded = encode("WEBP", lossless=True)
    bits = int.from_bytes(encoded[21:25], "little") >> 28 << 28
    return encoded[:21] + struct.pack("<I", bits | height - 1 << 14 | width - 1) + encoded[25:]


def bmp_of_size(width: int, height: int) -> bytes:
    return BMP[:18] + struct.pack("<ii", width, height) + BMP[26:]


def run_length_bmp() -> bytes:
    pixels = b"\0\0" * 100_000  # line ends only
    header = struct.pack("<IiiHHIIiiII", 40, 4096, 4096, 1, 8, 1, len(pixels), 0, 0, 256, 256)
    start = 14 + 40 + 1024
    return (
        b"BM"
        + struct.pack("<IHHI", start + len(pixels), 0, 0, start)
        + header
        + bytes(1024)
        + pixels
    )


BOMBS = {
    "jpeg scans": (jpeg_of_scans(4000, 1024), f"4000 .* {MAX_SCANS}"),
    "jpeg scans of the right size": (jpeg_of_scans(40_000, 112), f"40000 .* {MAX_SCANS}"),
    "png text": (png_with(png_chunk(b"zTXt", packed(50 << 20))), ""),  # Pillow's own limit
    "png texts": (png_with(png_chunk(b"zTXt", packed(1 << 20)) * 70), ""),  # the same
    "png profile": (png_with(png_chunk(b"iCCP", packed(50 << 20))), ""),  # the same
    "png profiles": (png_with(png_chunk(b"iCCP", packed(1 << 20)) * 500), f" 2 .*{MAX_CHUNKS} .*1"),
    "png chunks": (png_with(png_chunk(b"abCd", b"") * 50_000), f"{MAX_CHUNKS + 1} .*{MAX_CHUNKS} "),
    "webp canvas": (webp_of_canvas(60_000, 60_000), f"60000x60000 .* {MAX_SIDE}"),
    "webp width": (webp_of_canvas(4097, 1), f"4097x1 .* {MAX_SIDE}"),
    "webp frame": (webp_of_frame(16_383, 16_000), f"16383x16000 .* {MAX_SIDE}"),
    "webp lossless": (lossless_webp(16_384, 9), f"16384x9 .* {MAX_SIDE}"),
    "bmp size": (bmp_of_size(60_000, 60_000), ""),  # Pillow's own limit
    "bmp width": (bmp_of_size(4097, 1), f"4097x1 .* {MAX_SIDE}"),
    "bmp runs": (run_length_bmp(), "BMP"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused_quickly(name: str) -> None:
    encoded, values = BOMBS[name]
    before = time.process_time()
    with pytest.raises(BadImage, match=values or None):
        decode(encoded)
    assert time.process_time() - before < 1  # seconds; measured: at most 0.1


@pytest.mark.parametrize("start", [encode("JPEG", 256), PNG], ids=["JPEG", "PNG"])
def test_more_bytes_than_pixels_could_fill_are_refused(start: bytes) -> None:
    with pytest.raises(BadImage, match=f"{MAX_BYTES + 1} .* {MAX_BYTES}"):
        decode(start + bytes(MAX_BYTES + 1 - len(start)))


@pytest.mark.slow
def test_ordinary_images_are_within_the_limits() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (MAX_SIDE, 64, 3), np.uint8)
    decode(encode_pixels(noise, "JPEG", progressive=True, quality=100))
    decode(encode_pixels(noise, "PNG"))
    decode(encode_pixels(noise, "BMP"))
    pixels = decode(PNG)
    decorated = png_with(
        png_chunk(b"zTXt", packed(100_000)) * 9, png_chunk(b"iCCP", packed(100_000))
    )
    np.testing.assert_array_equal(decode(decorated), pixels)
    assert decode(jpeg_of_scans(10, MAX_SIDE)).std(axis=(0, 1)).max() < 1


def test_scans_are_counted_only_in_large_images() -> None:
    few = jpeg_of_scans(MAX_SCANS + 1, 112)
    with pytest.raises(BadImage, match="progression"):  # libjpeg's own error for repeated scans
        decode(few)
