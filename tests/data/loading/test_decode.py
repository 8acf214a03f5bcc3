import io
import re
import resource
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import simplejpeg
from PIL import Image

from data.datasets.dataset import open_dataset
from data.loading.decode import BadImage, decode_batch
from data.loading.decode_limits import MAX_SIDE
from tests.data.image_samples import encode_pixels as encode
from tests.data.loading.memory import MemoryDataset

RECORDS = Path(__file__).parents[2] / "fixtures" / "recordio"
EVERY_24 = np.arange(24)
STATM = Path("/proc/self/statm")


def photo(size: int = 112, channels: int = 3) -> npt.NDArray[np.uint8]:
    """Return a smooth image with edges whose channels differ."""
    y, x = np.mgrid[0:size, 0:size] / size
    waves = [np.sin(7 * x + channel) * np.cos(5 * y) + (x > 0.6) for channel in range(channels)]
    pixels: npt.NDArray[np.uint8] = ((np.stack(waves, -1) + 1) * 85).clip(0, 255).astype(np.uint8)
    return pixels


def decode(encoded: bytes, size: int = 112) -> npt.NDArray[np.uint8]:
    (image,) = decode_batch(MemoryDataset([encoded]), np.array([0]), size)
    return np.asarray(image)


@pytest.mark.parametrize("name", ["insightface_header", "mixed_encodings"])
def test_pixels_equal_those_of_pillow(name: str) -> None:
    dataset = open_dataset(RECORDS / name)
    indices = np.arange(len(dataset))[::-1].copy()
    images = decode_batch(dataset, indices, 112)
    assert images.shape == (len(dataset), 112, 112, 3)
    assert images.dtype == np.uint8
    for pixels, index in zip(images, indices.tolist(), strict=True):
        image = Image.open(io.BytesIO(dataset.encoded(index))).convert("RGB")
        if image.size == (112, 112):
            np.testing.assert_array_equal(pixels, np.asarray(image))


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("PNG", {}),
        ("BMP", {}),
        ("WEBP", {"lossless": True}),
        ("PNG", {"mode": "RGBA"}),
    ],
)
def test_lossless_images_are_decoded_exactly(kind: str, options: dict[str, Any]) -> None:
    np.testing.assert_array_equal(decode(encode(photo(), kind, **options)), photo())


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("JPEG", {"quality": 95, "subsampling": 0}),
        ("JPEG", {"quality": 95, "progressive": True}),
        ("JPEG", {"quality": 95, "mode": "CMYK"}),
        ("WEBP", {"quality": 95}),
    ],
)
def test_lossy_images_are_decoded_nearly_exactly_as_rgb(kind: str, options: dict[str, Any]) -> None:
    error = np.abs(decode(encode(photo(), kind, **options)).astype(int) - photo())
    assert error.mean() < 3  # in another order of the channels it is at least 27


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_grey_images_get_three_equal_channels(kind: str) -> None:
    grey = decode(encode(photo(channels=1)[:, :, 0], kind))
    assert (grey == grey[:, :, :1]).all()
    assert np.abs(grey[:, :, 0].astype(int) - photo(channels=1)[:, :, 0]).mean() < 2


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("size", [80, 224])
def test_other_sizes_are_resized(kind: str, size: int) -> None:
    resized = decode(encode(photo(size), kind), 112)
    assert resized.shape == (112, 112, 3)
    assert np.abs(resized.astype(int) - photo(112)).mean() < 3


def test_shrinking_averages() -> None:
    checks = np.indices((448, 448)).sum(0) % 2 * 255
    shrunk = decode(encode(np.repeat(checks[:, :, None], 3, 2).astype(np.uint8), "PNG"), 112)
    assert np.abs(shrunk[4:-4, 4:-4].astype(int) - 127).max() <= 2  # a single pixel is 0 or 255


def test_an_image_that_is_not_square_is_stretched() -> None:
    pixels = np.zeros((56, 112, 3), np.uint8)
    pixels[:, :56, 0] = 255
    image = decode(encode(pixels, "PNG"), 112)
    assert (image[:, :50] == [255, 0, 0]).all()
    assert (image[:, -50:] == 0).all()


def resident_set() -> int:
    return int(STATM.read_text().split()[1]) * resource.getpagesize()


def bomb_jpeg(side: int) -> bytes:
    encoded = bytearray(encode(photo(), "JPEG"))
    frame = encoded.index(b"\xff\xc0")
    encoded[frame + 5 : frame + 9] = struct.pack(">HH", side, side)
    return bytes(encoded)


def bomb_png(side: int) -> bytes:
    encoded = bytearray(encode(photo(), "PNG"))
    header = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    encoded[12:33] = header + struct.pack(">I", zlib.crc32(header))
    return bytes(encoded)


@pytest.mark.parametrize(
    "encoded", [bomb(side) for bomb in (bomb_jpeg, bomb_png) for side in (MAX_SIDE + 1, 60_000)]
)
def test_too_many_pixels_are_refused_by_the_header(encoded: bytes) -> None:
    with pytest.raises(BadImage, match=r"^memory, image 0: "):
        decode(encoded)


JPEG = encode(photo(), "JPEG", quality=95)
PNG = encode(photo(), "PNG")


@pytest.mark.parametrize(
    "encoded",
    [
        b"",
        b"\xff\xd8",
        b"no image at all",
        JPEG[: len(JPEG) // 2],
        JPEG[:-2],
        JPEG[:200] + JPEG[210:],
        PNG[: len(PNG) // 2],
        encode(photo(), "GIF"),
    ],
    ids=range(8),
)
def test_damaged_images_are_refused_with_their_location(encoded: bytes) -> None:
    start = re.escape(repr(encoded[:12]))
    with pytest.raises(BadImage, match=rf"^memory, image 1: .*{len(encoded)} bytes.*{start}"):
        decode_batch(MemoryDataset([JPEG, encoded]), np.array([0, 1]), 112)


def test_the_location_of_a_damaged_record_is_file_key_and_offset(tmp_path: Path) -> None:
    content = bytearray((RECORDS / "im2rec_headerless" / "train.rec").read_bytes())
    content[3736 + 32 + 600 :][:40] = bytes(40)
    content[3736 + 32 : 3736 + 40] = bytes(8)
    (tmp_path / "train.rec").write_bytes(content)
    dataset = open_dataset(tmp_path)
    decode_batch(dataset, np.array([0, 1, 3]), 112)
    with pytest.raises(BadImage, match=r"train\.rec, key 2, offset 3736: .*1829 bytes"):
        decode_batch(dataset, EVERY_24, 112)


def test_more_than_8_bits_per_channel_are_refused() -> None:
    deep = encode(np.arange(112 * 112, dtype=np.uint16).reshape(112, 112), "PNG")
    with pytest.raises(BadImage, match=r"mode I.* 8 bits"):
        decode(deep)


def test_bytes_after_the_end_of_a_jpeg_are_ignored() -> None:
    np.testing.assert_array_equal(decode(JPEG + b"\x0a\x23\xd7\xce"), decode(JPEG))


def test_no_images_give_an_empty_batch() -> None:
    assert decode_batch(MemoryDataset([]), np.array([], np.int64), 112).shape == (0, 112, 112, 3)


def test_views_of_bytes_are_decoded() -> None:
    view = memoryview(b"junk" + JPEG)[4:]
    np.testing.assert_array_equal(
        decode_batch(MemoryDataset([view]), np.array([0]), 112)[0], simplejpeg.decode_jpeg(JPEG)
    )


def test_too_long_a_side_is_refused_even_if_the_pixels_would_fit() -> None:
    thin = simplejpeg.encode_jpeg(np.zeros((2, MAX_SIDE + 1, 3), np.uint8))
    with pytest.raises(BadImage, match=f"{MAX_SIDE + 1}x2 pixels"):
        decode(thin)


def test_images_are_written_into_the_given_array() -> None:
    out = np.zeros((2, 112, 112, 3), np.uint8)
    images = MemoryDataset([encode(photo(112), "JPEG"), encode(photo(80), "JPEG")])
    assert decode_batch(images, np.arange(2), 112, out) is out
    assert (out == decode_batch(images, np.arange(2), 112)).all()


@pytest.mark.skipif(not STATM.exists(), reason="the resident set is read from /proc")
def test_images_that_are_resized_leave_no_memory_behind() -> None:
    images = MemoryDataset([encode(photo(size), "JPEG") for size in (12, 24)])
    indices, out = np.arange(1000) % 2, np.empty((1000, 16, 16, 3), np.uint8)
    decode_batch(images, indices, 16, out)
    before = resident_set()
    for _ in range(10):
        decode_batch(images, indices, 16, out)
    assert resident_set() - before < 5_000_000  # 1 kB per image; simplejpeg can leak 4.4 kB
