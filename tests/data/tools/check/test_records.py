import struct
from pathlib import Path

import pytest

from data.records.format import pack_record
from data.records.writer import RecordWriter
from tests.data.tools.check.helpers import check, encoded, found, keys_of, write


def bomb() -> bytes:
    image = bytearray(encoded())
    at = image.index(b"\xff\xc0")
    image[at + 5 : at + 9] = struct.pack(">HH", 60_000, 60_000)
    return bytes(image)


@pytest.mark.parametrize(
    "image",
    [
        encoded()[:-200],
        encoded(kind="PNG")[:-30],
        encoded()[:40],
        b"\xff\xd8",
        b"no image",
        bomb(),
        b"\x89PNG\r\n\x1a\n",
    ],
    ids=["cut JPEG", "cut PNG", "JPEG start", "JPEG magic", "text", "bomb", "PNG magic"],
)
def test_images_that_cannot_be_decoded_are_found(tmp_path: Path, image: bytes) -> None:
    images = [(0.0, encoded(seed=1)), (0.0, image), (1.0, encoded(seed=3))]
    path = write(tmp_path / "x.rec", images)
    result = check(path)
    findings = found(result)
    assert keys_of(findings["undecodable"]) == [1]
    assert set(findings) == {"undecodable"}
    assert check(path, decode=False).clean


def test_records_without_an_image_or_a_header_are_found(tmp_path: Path) -> None:
    with RecordWriter(tmp_path / "x.rec") as writer:
        writer.write(0, pack_record(0, 0, encoded()))
        writer.write(1, pack_record(0, 1, b""))
        writer.write(2, b"")
        writer.write(3, pack_record([1, 2, 3], 3, b"")[:-1])
        writer.write(4, pack_record([1, 2, 3], 4, encoded(seed=5)))
    findings = found(check(tmp_path / "x.rec"))
    assert keys_of(findings["no_image"]) == [1]
    assert keys_of(findings["no_header"]) == [2, 3]
    assert set(findings) == {"no_image", "no_header"}
