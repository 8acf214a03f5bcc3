"""Small record files to be damaged and checked."""

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from data.records.format import pack_record
from data.records.writer import RecordWriter
from data.tools.check.run import CheckResult, check_records

Finding = dict[str, Any]


def check(path: Path, **options: Any) -> CheckResult:
    return check_records([path], workers=1, **options)


def found(result: CheckResult) -> dict[str, Finding]:
    return {finding["kind"]: finding for finding in result.findings.to_list()}


def keys_of(finding: Finding) -> list[int]:
    return [place["key"] for place in finding["places"]]


def write(path: Path, images: list[tuple[float, bytes]]) -> Path:
    """Write (label, image) with the keys 0, 1 … and no header record."""
    with RecordWriter(path) as writer:
        for key, (label, image) in enumerate(images):
            writer.write(key, pack_record(label, key, image))
    return path


def encoded(size: tuple[int, int] = (32, 32), kind: str = "JPEG", seed: int = 99) -> bytes:
    stream = BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


def flip_magic(content: bytearray, start: int) -> None:
    content[start] ^= 1
