"""Files of TensorBoard's tab "Projector": faces as points, with their pictures.

They are replaced each time, so the tab shows the last ones. Shapes: n faces, d embedding size.
"""

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

from recognition.telemetry.logger import Faces

SIDE: Final = 48  # pixels of a picture
_CONFIG: Final = "projector_config.pbtxt"  # the name that TensorBoard looks for


def write_projector(folder: Path, sets: Mapping[str, Faces]) -> None:
    """Write the faces of each set into TensorBoard's folder. Raises `OSError`."""
    folder.mkdir(parents=True, exist_ok=True)
    entries = []
    for number, (name, faces) in enumerate(sets.items()):
        stem = f"faces_{number}"
        unit_nd = faces.embeddings / np.linalg.norm(faces.embeddings, axis=1, keepdims=True)
        rows = ["\t".join(f"{value:.5g}" for value in row) for row in unit_nd]
        _write(folder / f"{stem}.tsv", "\n".join(rows).encode())
        # A table of one column has no title.
        people = [f"person {person}" for person in faces.people]
        _write(folder / f"{stem}_people.tsv", "\n".join(people).encode())
        _write(folder / f"{stem}.png", _sprite(faces.images))
        entries.append(
            f'embeddings {{ tensor_name: "{_quoted(name)}" tensor_path: "{stem}.tsv" '
            f'metadata_path: "{stem}_people.tsv" sprite {{ image_path: "{stem}.png" '
            f"single_image_dim: {SIDE} single_image_dim: {SIDE} }} }}\n"
        )
    _write(folder / _CONFIG, "".join(entries).encode())


def _sprite(images: Sequence[bytes | memoryview]) -> bytes:
    """Return one square picture of all, row by row, as PNG."""
    across = math.ceil(math.sqrt(len(images)))
    sheet = Image.new("RGB", (across * SIDE, across * SIDE))
    for number, encoded in enumerate(images):
        with Image.open(io.BytesIO(encoded)) as image:
            small = image.convert("RGB").resize((SIDE, SIDE))
        sheet.paste(small, (number % across * SIDE, number // across * SIDE))
    stream = io.BytesIO()
    sheet.save(stream, "PNG")
    return stream.getvalue()


def _quoted(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"")


def _write(file: Path, content: bytes) -> None:
    """Replace a file at once: TensorBoard may read it at any time."""
    new = file.with_name(f".{file.name}.new")
    new.write_bytes(content)
    new.replace(file)
