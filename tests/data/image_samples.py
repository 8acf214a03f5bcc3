"""Small images of every form for the tests of what reads and writes image files."""

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def encode(kind: str = "JPEG", *, seed: int = 0, size: int = 16, mode: str = "RGB") -> bytes:
    """Return an image of blurred noise, other for every seed."""
    noise = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    image = Image.fromarray(noise).resize((size, size)).convert(mode)
    options: dict[str, Any] = {"quality": 90} if kind == "JPEG" else {}
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def people(root: Path, counts: dict[str, int], **options: Any) -> dict[str, bytes]:
    """Fill `root` with `counts` images for each name; return the contents by relative path."""
    made: dict[str, bytes] = {}
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for number in range(count):
            content = encode(seed=len(made), **options)
            made[f"{name}/{number:03d}.jpg"] = content
            (root / name / f"{number:03d}.jpg").write_bytes(content)
    return made


def contents(folder: Path) -> dict[str, bytes]:
    """Return all files below `folder` by relative path."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}
