"""Tests of `eval.report.faces`: pictures are small."""

import base64
from io import BytesIO

import numpy as np
from PIL import Image

from eval.report.faces import thumbnails
from tests.eval.suites.made_sets import photo


def size_of(uri: str) -> tuple[int, int]:
    kind, content = uri.split(",")
    assert kind == "data:image/jpeg;base64"
    with Image.open(BytesIO(base64.b64decode(content))) as image:
        return image.size


def test_large_photos_become_small_and_lose_their_metadata() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8)
    content, place = BytesIO(), Image.Exif()
    place[0x010E] = "where it was taken"
    Image.fromarray(pixels).save(content, "JPEG", exif=place)
    assert b"where it was" in content.getvalue()
    found = thumbnails({("set", 0): content.getvalue(), ("set", 1): photo(0, 0)}, 96)
    assert size_of(found["set", 0]) == (96, 64)
    assert size_of(found["set", 1]) == (16, 16)
    assert b"where it was" not in base64.b64decode(found["set", 0].partition(",")[2])
