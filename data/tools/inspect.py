"""What `.rec` files hold: counts, identities, sizes, and a picture of some images.

Identities are counted exactly; sizes are those of a sample, because a look at 17 million images
on a cold disk takes minutes.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from data.loading.decode import BadImage, decode_into
from data.records.format import HEADER, Bytes
from data.records.index import open_index
from data.records.labels import ImageTable, read_images
from data.records.reader import RecordFile

Progress = Callable[[int, int], None]
Ints = npt.NDArray[np.int64]

CELL: Final = 112  # pixels of an image in a grid
_BAR: Final = 40  # characters of the longest bar
_SIZES_SHOWN: Final = 8


@dataclass(frozen=True)
class Spread:
    """How a number is spread over many things.

    Attributes:
        least, median, most: of the values.
        bins: first value, last value and count of each stretch; each is twice as long as the one
            before, and the last ends with `most`.
    """

    least: int
    median: float
    most: int
    bins: tuple[tuple[int, int, int], ...]

    @classmethod
    def of(cls, values: Ints) -> "Spread":
        """Return the spread of values of 1 or more."""
        exponents = np.log2(values).astype(np.int64)
        counts = np.bincount(exponents).tolist()
        bins = tuple(
            (2**e, min(2 ** (e + 1) - 1, int(values.max())), counts[e])
            for e in range(int(exponents.min()), len(counts))
        )
        return cls(int(values.min()), float(np.median(values)), int(values.max()), bins)

    def text(self, what: str) -> list[str]:
        """Return lines for a person: a heading, then a bar for each bin."""
        names = [f"{a:,}" if a == b else f"{a:,}-{b:,}" for a, b, _ in self.bins]
        width, largest = max(map(len, names)), max(count for _, _, count in self.bins)
        lines = [f"{what}: {self.least:,} to {self.most:,}, median {self.median:,.10g}"]
        for name, (_, _, count) in zip(names, self.bins, strict=True):
            bar = "#" * -(-count * _BAR // largest)
            lines.append(f"  {name:>{width}}  {count:>10,}  {bar}".rstrip())
        return lines


@dataclass(frozen=True)
class FileFacts:
    """What one file is like: path, bytes, records, images, whether it has an index, its layout."""

    path: str
    size: int
    records: int
    images: int
    has_index: bool
    layout: str


@dataclass(frozen=True)
class Inspection:
    """What the files of a dataset hold.

    Attributes:
        files: one by one.
        images, identities: of all files.
        label_range: least and largest label.
        label_gaps: how many labels from 0 to the largest no image has.
        images_per_identity: see `Spread`.
        sampled: of how many images the rest is.
        image_bytes: sizes of encoded images.
        pixels: width, height and count, the most frequent first.
        formats: `JPEG`, `PNG` …, or `unknown`, and how many.
        labels_per_record: how many labels records have, and how many those are.
    """

    files: tuple[FileFacts, ...]
    images: int
    identities: int
    label_range: tuple[int, int]
    label_gaps: int
    images_per_identity: Spread
    sampled: int
    image_bytes: Spread
    pixels: tuple[tuple[int, int, int], ...]
    formats: dict[str, int]
    labels_per_record: dict[int, int]

    def to_dict(self) -> dict[str, Any]:
        """Return everything for JSON."""
        return asdict(self)

    def text(self) -> str:
        """Return everything for a person."""
        lines = []
        for file in self.files:
            index = ".idx" if file.has_index else "no .idx"
            lines.append(
                f"{file.path}: {file.size / 1e6:,.1f} MB, {file.records:,} records, "
                f"{file.images:,} images, {index}, {file.layout}"
            )
        low, high = self.label_range
        whole = "all" if self.sampled == self.images else "a sample of"
        gaps = f"{self.label_gaps:,} below unused" if self.label_gaps else "without gaps"
        lines += [
            "",
            f"{self.images:,} images of {self.identities:,} identities; labels {low:,} to "
            f"{high:,}, {gaps}",
            "",
            *self.images_per_identity.text("images per identity"),
            "",
            f"of {whole} {self.sampled:,} images:",
            *self.image_bytes.text("bytes per image"),
            f"pixels: {_counted((f'{w}x{h}', count) for w, h, count in self.pixels)}",
            f"formats: {_counted(self.formats.items())}",
            f"labels per record: {_counted(self.labels_per_record.items())}",
        ]
        return "\n".join(lines)


def _counted(items: Iterable[tuple[object, int]]) -> str:
    items = list(items)
    shown = ", ".join(f"{name} ({count:,})" for name, count in items[:_SIZES_SHOWN])
    return shown + (f" and {len(items) - _SIZES_SHOWN:,} others" * (len(items) > _SIZES_SHOWN))


class RecordImages:
    """The images of several `.rec` files; raises `RecordError` for those that cannot be read.

    Attributes:
        files: the facts of each.
        labels: as the files have them; int64 [n].
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._files = [RecordFile(path) for path in paths]
        self._tables: list[ImageTable] = []
        facts = []
        for path, file in zip(paths, self._files, strict=True):
            has_index = path.with_suffix(".idx").is_file()
            index = open_index(file)
            table = read_images(file, index)
            self._tables.append(table)
            images, records = len(table.offsets), len(index.keys)
            layout = (
                "every record is an image"
                if images == records
                else "record 0 states the images' keys, and each identity's keys have a record"
            )
            facts.append(FileFacts(str(path), file.size, records, images, has_index, layout))
        self.files = tuple(facts)
        self.labels: Ints = np.concatenate([table.labels for table in self._tables])
        self._first_rows = np.cumsum([0, *(len(table.offsets) for table in self._tables)])

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, row: int) -> tuple[int, Bytes]:
        """Return the number of labels of the image at `row`, and its bytes."""
        number = int(np.searchsorted(self._first_rows, row, side="right")) - 1
        table, place = self._tables[number], row - int(self._first_rows[number])
        payload = self._files[number].read(int(table.offsets[place]), int(table.keys[place]))
        flag = HEADER.unpack_from(payload)[0]
        return max(flag, 1), payload[HEADER.size + 4 * flag :]


def inspect_records(
    images: RecordImages, *, sample: int = 10_000, seed: int = 0, progress: Progress | None = None
) -> Inspection:
    """Return what `images` hold; sizes are those of `sample` of them, chosen by `seed`.

    Calls `progress` with (images looked at, images to look at) now and then. Raises `ValueError`
    for a sample of none, and `RecordError` for records that are damaged.
    """
    if sample < 1:
        raise ValueError(f"sample is {sample}: expected at least 1 image")
    counts = np.bincount(images.labels)
    per_identity = counts[counts > 0]
    rows = np.arange(len(images))
    if sample < len(images):
        rows = np.sort(np.random.default_rng(seed).choice(len(images), sample, replace=False))
    sizes: list[int] = []
    pixels: Counter[tuple[int, int]] = Counter()
    formats: Counter[str] = Counter()
    labels: Counter[int] = Counter()
    for done, row in enumerate(rows.tolist(), start=1):
        count, encoded = images.read(row)
        labels[count] += 1
        sizes.append(len(encoded))
        kind, size = _form(encoded)
        formats[kind] += 1
        if size is not None:
            pixels[size] += 1
        if progress is not None and (done % 256 == 0 or done == len(rows)):
            progress(done, len(rows))
    return Inspection(
        files=images.files,
        images=len(images),
        identities=len(per_identity),
        label_range=(int(images.labels.min()), int(images.labels.max())),
        label_gaps=len(counts) - len(per_identity),
        images_per_identity=Spread.of(per_identity),
        sampled=len(rows),
        image_bytes=Spread.of(np.array(sizes)),
        pixels=tuple((*size, count) for size, count in pixels.most_common()),
        formats=dict(formats.most_common()),
        labels_per_record=dict(sorted(labels.items())),
    )


def _form(encoded: Bytes) -> tuple[str, tuple[int, int] | None]:
    """Return format and size of an image from its header alone."""
    try:
        with Image.open(BytesIO(encoded)) as image:
            return image.format or "unknown", image.size
    except Exception:  # Pillow raises nearly every kind for damaged bytes
        return "unknown", None


def draw_grid(
    images: RecordImages,
    *,
    rows: int = 8,
    columns: int = 8,
    by_identity: bool = True,
    seed: int = 0,
) -> Image.Image:
    """Return a picture of some images, each 112x112, chosen by `seed`.

    With `by_identity` each row shows one identity, those first that have enough images for it;
    without, the images are any. Cells without an image are black, with a damaged one red. Raises
    `ValueError` for a grid without cells.
    """
    if rows < 1 or columns < 1:
        raise ValueError(
            f"a grid of {rows} rows and {columns} columns: expected at least 1 of both"
        )
    rng = np.random.default_rng(seed)
    if by_identity:
        cells = _rows_of_identities(images.labels, rows, columns, rng)
    else:
        chosen = rng.choice(len(images), min(rows * columns, len(images)), replace=False)
        cells = [chosen[start : start + columns] for start in range(0, len(chosen), columns)]
    canvas = np.zeros((len(cells), columns, CELL, CELL, 3), np.uint8)
    for line, members in zip(canvas, cells, strict=True):
        for cell, row in zip(line, members.tolist(), strict=False):
            try:
                decode_into(cell, images.read(row)[1])
            except BadImage:
                cell[:] = (255, 0, 0)
    flat = canvas.transpose(0, 2, 1, 3, 4).reshape(len(cells) * CELL, columns * CELL, 3)
    return Image.fromarray(flat)


def _rows_of_identities(
    labels: Ints, rows: int, columns: int, rng: np.random.Generator
) -> list[Ints]:
    """Return the images of each row."""
    counts = np.bincount(labels)
    identities = rng.permutation(np.flatnonzero(counts))
    enough = counts[identities] >= columns
    chosen = np.concatenate([identities[enough], identities[~enough]])[:rows]
    members = [np.flatnonzero(labels == identity) for identity in chosen.tolist()]
    return [rng.permutation(every)[:columns] for every in members]
