"""What `.rec` files hold: counts, identities, sizes, and a picture of some images.

Identities are counted exactly; sizes are those of a sample, because reading 17 million images from
a cold disk takes minutes.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image

from data.datasets.class_ids import number_datasets
from data.datasets.dataset import RecordDataset
from data.datasets.sources import RecordImages
from data.loading.decode import BadImage, decode_into
from data.progress import ProgressCallback
from data.records.format import Bytes, Int32s, Int64s
from data.records.index import open_index

CELL: Final = 112  # pixels of an image in a grid
_BAR: Final = 40  # characters of the longest bar
_SIZES_SHOWN: Final = 8


@dataclass(frozen=True)
class Distribution:
    """How a number is distributed over many things."""

    least: int
    median: float
    most: int
    # First value, last value and count of each range of values; each is twice as long as the one
    # before, and the last ends with `most`.
    bins: tuple[tuple[int, int, int], ...]

    @classmethod
    def of(cls, values: Int64s) -> "Distribution":
        """Return the distribution of values of 1 or more."""
        exponents = np.log2(values).astype(np.int64)
        counts = np.bincount(exponents).tolist()
        bins = tuple(
            (2**e, min(2 ** (e + 1) - 1, int(values.max())), counts[e])
            for e in range(int(exponents.min()), len(counts))
        )
        return cls(int(values.min()), float(np.median(values)), int(values.max()), bins)

    def text(self, title: str) -> list[str]:
        """Return lines for a person: a heading, then a bar for each bin."""
        names = [f"{a:,}" if a == b else f"{a:,}-{b:,}" for a, b, _ in self.bins]
        width, largest = max(map(len, names)), max(count for _, _, count in self.bins)
        lines = [f"{title}: {self.least:,} to {self.most:,}, median {self.median:,.10g}"]
        for name, (_, _, count) in zip(names, self.bins, strict=True):
            bar = "#" * -(-count * _BAR // largest)
            lines.append(f"  {name:>{width}}  {count:>10,}  {bar}".rstrip())
        return lines


@dataclass(frozen=True)
class FileSummary:
    """One file."""

    path: str
    size: int  # in bytes
    records: int
    images: int
    has_index: bool
    layout: str


@dataclass(frozen=True)
class Inspection:
    """What the files of a dataset hold."""

    files: tuple[FileSummary, ...]
    images: int  # of all files
    identities: int
    label_range: tuple[int, int]  # least and largest
    label_gaps: int  # how many labels from 0 to the largest no image has
    images_per_identity: Distribution
    sampled: int  # how many images the rest is about
    image_bytes: Distribution  # of encoded images
    pixels: tuple[tuple[int, int, int], ...]  # width, height and count, the most frequent first
    formats: dict[str, int]  # `JPEG`, `PNG` …, or `unknown`, with their counts
    labels_per_record: dict[int, int]  # how many labels records have, with their counts

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


class InspectedRecords(RecordDataset):
    """The images of several `.rec` files, whatever gaps their labels have.

    Raises `RecordError` for files that cannot be read.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        have_index = [path.with_suffix(".idx").is_file() for path in paths]
        sources = [RecordImages(path) for path in paths]
        super().__init__(sources, number_datasets([("", sources)], merge="offset", remap=True))
        self.summaries = tuple(map(_summary, sources, have_index))


def _summary(images: RecordImages, has_index: bool) -> FileSummary:
    records = len(open_index(images.file).keys)
    layout = (
        "record 0 states the images' keys, and each identity's keys have a record"
        if images.has_header
        else "every record is an image"
    )
    path = str(images.file.path)
    return FileSummary(path, images.file.size, records, len(images), has_index, layout)


def inspect_records(
    images: InspectedRecords,
    *,
    sample: int = 10_000,
    seed: int = 0,
    progress: ProgressCallback | None = None,
) -> Inspection:
    """Return what `images` hold; sizes are those of `sample` of them, chosen by `seed`.

    Calls `progress` with (images read, images to read) now and then. Raises `ValueError` for a
    sample of none, and `RecordError` for records that are damaged.
    """
    if sample < 1:
        raise ValueError(f"sample is {sample}: expected at least 1 image")
    rows = np.arange(len(images))
    if sample < len(images):
        rows = np.sort(np.random.default_rng(seed).choice(len(images), sample, replace=False))
    sizes: list[int] = []
    pixels: Counter[tuple[int, int]] = Counter()
    formats: Counter[str] = Counter()
    labels: Counter[int] = Counter()
    for done, row in enumerate(rows.tolist(), start=1):
        record = images.record(row)
        labels[len(record.labels)] += 1
        sizes.append(len(record.image))
        name, size = _format(record.image)
        formats[name] += 1
        if size is not None:
            pixels[size] += 1
        if progress is not None and (done % 256 == 0 or done == len(rows)):
            progress(done, len(rows))
    stored = images.stored_labels
    return Inspection(
        files=images.summaries,
        images=len(images),
        identities=images.num_classes,
        label_range=(stored[0], stored[-1]),
        label_gaps=stored[-1] + 1 - len(stored),
        images_per_identity=Distribution.of(np.bincount(images.labels)),
        sampled=len(rows),
        image_bytes=Distribution.of(np.array(sizes)),
        pixels=tuple((*size, count) for size, count in pixels.most_common()),
        formats=dict(formats.most_common()),
        labels_per_record=dict(sorted(labels.items())),
    )


def _format(encoded: Bytes) -> tuple[str, tuple[int, int] | None]:
    """Return format and size of an image from its header alone."""
    try:
        with Image.open(BytesIO(encoded)) as image:
            return image.format or "unknown", image.size
    except Exception:  # Pillow raises nearly every kind for damaged bytes
        return "unknown", None


def draw_grid(
    images: RecordDataset,
    *,
    rows: int = 8,
    columns: int = 8,
    by_identity: bool = True,
    seed: int = 0,
) -> Image.Image:
    """Return a picture of some images, each 112x112, chosen by `seed`.

    With `by_identity` each row shows one identity, those first that have enough images for it;
    otherwise the images are of any. Cells without an image are black, those with a damaged one red.
    Raises `ValueError` for a grid without cells.
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
                decode_into(cell, images.record(row).image)
            except BadImage:
                cell[:] = (255, 0, 0)
    flat = canvas.transpose(0, 2, 1, 3, 4).reshape(len(cells) * CELL, columns * CELL, 3)
    return Image.fromarray(flat)


def _rows_of_identities(
    labels: Int32s, rows: int, columns: int, rng: np.random.Generator
) -> list[Int64s]:
    """Return the images of each row."""
    counts = np.bincount(labels)
    identities = rng.permutation(len(counts))
    enough = counts[identities] >= columns
    chosen = np.concatenate([identities[enough], identities[~enough]])[:rows]
    members = [np.flatnonzero(labels == identity) for identity in chosen.tolist()]
    return [rng.permutation(every)[:columns] for every in members]
