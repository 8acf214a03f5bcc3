import io

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from data.loading.decode import BadImage
from data.tools.encoded_image import Encoding, check_whole, pixel_size, reencode, suffix_of
from tests.data.image_samples import encode

FORMS = {".jpg": "JPEG", ".png": "PNG", ".webp": "WEBP", ".bmp": "BMP"}


def pixels(encoded: bytes) -> "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]":
    return np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB"))


@pytest.mark.parametrize("suffix", FORMS)
def test_whole_images_are_recognised_by_their_content(suffix: str) -> None:
    encoded = encode(FORMS[suffix], size=24)
    assert suffix_of(encoded) == suffix
    assert pixel_size(encoded) == (24, 24)
    assert check_whole(memoryview(encoded)) == (24, 24)


@pytest.mark.parametrize("suffix", FORMS)
def test_truncated_images_are_found_without_decoding(suffix: str) -> None:
    encoded = encode(FORMS[suffix], size=64)
    with pytest.raises(BadImage, match=f"{suffix[1:]} .* {len(encoded) - 20} "):
        check_whole(encoded[:-20])


def test_the_end_of_a_thumbnail_is_not_the_end_of_its_image() -> None:
    encoded, thumbnail = encode(size=64), encode(size=8)
    comment = b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail
    with_thumbnail = encoded[:2] + comment + encoded[2:]
    assert check_whole(with_thumbnail + b"and a camera's trailer") == (64, 64)
    with pytest.raises(BadImage, match=f"jpg .* {len(with_thumbnail) - 20} "):
        check_whole(with_thumbnail[:-20])


@pytest.mark.parametrize(
    ("encoded", "found"),
    [
        (b"", "empty"),
        (b"no image at all", "b'no image at '"),
        (encode("GIF"), "b'GIF87a"),
        (encode()[:30], "jpg .* 30 "),
        (encode()[:30] + b"\xff\xd9", r"jpg .*\(32 "),
        (b"\x89PNG\r\n\x1a\n" + bytes(20), "png .* 28 "),
    ],
)
def test_what_is_no_image_is_refused(encoded: bytes, found: str) -> None:
    with pytest.raises(BadImage, match=found):
        check_whole(encoded)
    with pytest.raises(BadImage, match=found):
        reencode(encoded, size=16, encoding=None, quality=95)


def test_images_too_large_to_train_on_are_refused() -> None:
    content = bytearray(encode())
    frame = content.index(b"\xff\xc0")
    content[frame + 5 : frame + 9] = bytes([0xEA, 0x60] * 2)
    with pytest.raises(BadImage, match=r"60000x60000 .* 4096"):
        check_whole(bytes(content))


def test_images_of_the_wanted_size_keep_their_bytes() -> None:
    for kind in FORMS.values():
        encoded = encode(kind, size=32)
        assert reencode(encoded, size=32, encoding=None, quality=50) == encoded


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("encoding", [None, "jpeg", "png"])
def test_other_sizes_and_modes_become_rgb_of_the_size(encoding: Encoding, mode: str) -> None:
    encoded = encode(size=48, mode=mode)
    made = reencode(encoded, size=32, encoding=encoding, quality=95)
    assert suffix_of(made) == (".png" if encoding == "png" else ".jpg")
    expected = pixels(encoded)
    resized = np.asarray(Image.fromarray(expected).resize((32, 32), Image.Resampling.LANCZOS))
    assert Image.open(io.BytesIO(made)).mode == "RGB"
    # Pillow and libjpeg-turbo round differently when they convert CMYK to RGB, by 1.
    assert np.abs(pixels(made).astype(int) - resized).mean() < (1.1 if encoding == "png" else 3)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_without_a_size_images_keep_theirs(kind: str) -> None:
    buffer = io.BytesIO()
    tall = np.repeat(np.arange(40, dtype=np.uint8)[:, None, None], 20, 1).repeat(3, 2)
    Image.fromarray(tall).save(buffer, kind)
    made = reencode(buffer.getvalue(), size=None, encoding="png", quality=95)
    np.testing.assert_array_equal(pixels(made), pixels(buffer.getvalue()))


def test_quality_is_that_of_the_jpeg() -> None:
    encoded = encode("PNG", size=64)
    small, large = (reencode(encoded, size=None, encoding="jpeg", quality=q) for q in (30, 95))
    assert large == simplejpeg.encode_jpeg(pixels(encoded), 95)
    assert len(small) < len(large)


def test_damage_in_the_middle_is_found_when_images_are_re_encoded() -> None:
    encoded = encode("PNG", size=64)
    damaged = encoded[:60] + bytes(10) + encoded[70:]
    assert check_whole(damaged) == (64, 64)
    for size in (None, 64, 32):
        with pytest.raises(BadImage, match=f"{len(damaged)} "):
            reencode(damaged, size=size, encoding="jpeg" if size is None else None, quality=95)
