"""Checks of what records hold: header record, key ranges, labels, sizes, copies."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from data.records.labels import INEXACT_FROM
from data.tools.check.index import NO_KEY
from data.tools.check.window import Offsets
from data.tools.findings import Findings, Place

Rows = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class RecordTable:
    """All n records of one file, or of several one after the other, column by column.

    Attributes:
        files: the files.
        first_rows: the row of the first record of each file.
        keys: int64 [n], `NO_KEY` where the index does not name the record.
        offsets: int64 [n].
        labels: the first of each; float32 [n].
        image_sizes: bytes; int32 [n], negative where there is no header.
        fingerprints: of the images; uint64 [n].
        sizes: pixels, see `StretchRecords`; uint16 [n, 2].
    """

    files: tuple[Path, ...]
    first_rows: tuple[int, ...]
    keys: Offsets
    offsets: Offsets
    labels: npt.NDArray[np.float32]
    image_sizes: npt.NDArray[np.int32]
    fingerprints: npt.NDArray[np.uint64]
    sizes: npt.NDArray[np.uint16]

    @property
    def name(self) -> str:
        """All files in words."""
        return str(self.files[0]) if len(self.files) == 1 else f"all {len(self.files)} files"

    def file_of(self, row: int) -> Path:
        """Return the file of the record at `row`."""
        return self.files[int(np.searchsorted(self.first_rows, row, side="right")) - 1]

    def places(self, rows: Rows, detail: Callable[[int], str]) -> Iterator[Place]:
        """Yield the place of each of `rows`, with what `detail` says of the row."""
        for row in rows.tolist():
            key = int(self.keys[row])
            yield Place(
                str(self.file_of(row)),
                detail(row),
                None if key == NO_KEY else key,
                int(self.offsets[row]),
            )


@dataclass(frozen=True)
class Extras:
    """The records of one file that hold no image.

    Attributes:
        rows: int64 [m], rising.
        flags: number of labels in a list; uint32 [m].
        labels: the first two; float32 [m, 2].
    """

    rows: Rows
    flags: npt.NDArray[np.uint32]
    labels: npt.NDArray[np.float32]


def find_images(table: RecordTable, extras: Extras, named: Offsets, findings: Findings) -> Mask:
    """Return which records of one file are its images, bool [n]; their labels need not be good.

    Judges the header record and the key ranges too. `named` are all keys of the index.
    """
    short = np.flatnonzero((table.image_sizes < 0) & (table.keys != NO_KEY))
    findings.add("no_header", table.places(short, lambda _: "it has no header"), len(short))
    bounds = _key_bounds(table, extras)
    # Where record 0 is lost, those with two labels and no image will be its key ranges.
    ranges = (extras.flags == 2) & (bounds is None and not (table.keys == 0).any())
    empty = extras.rows[(table.keys[extras.rows] != NO_KEY) & ~ranges]
    images: Mask = (table.image_sizes > 0) & (table.keys != NO_KEY)
    if bounds is not None:
        stop, end, slack = bounds
        images &= table.keys > 0
        images &= (table.keys < stop) | (slack > 0) & (table.keys < stop + slack)
        empty = empty[(table.keys[empty] > 0) & (table.keys[empty] < stop - slack)]
        _check_promise(table, named, stop - slack, end + slack, findings)
        if end > stop and not slack:
            _check_ranges(table, extras, images, stop, end, findings)
    findings.add("no_image", table.places(empty, lambda _: "it holds only a header"), len(empty))
    return images


def _key_bounds(table: RecordTable, extras: Extras) -> tuple[int, int, int] | None:
    """Return the keys after the last image and the last identity, and how far both may be off."""
    header = np.flatnonzero((table.keys[extras.rows] == 0) & (extras.flags == 2))
    if not len(header) or not np.isfinite(extras.labels[header[0]]).all():
        return None
    stop, end = (int(label) for label in extras.labels[header[0]])
    slack = int(np.spacing(extras.labels[header[0], 1])) if end >= INEXACT_FROM else 0
    return (stop, end, slack) if 1 < stop <= end else None


def _check_promise(
    table: RecordTable, named: Offsets, stop: int, end: int, findings: Findings
) -> None:
    path = str(table.files[0])
    there = np.zeros(stop, np.bool_)
    there[named[(named > 0) & (named < stop)]] = True
    missing = np.flatnonzero(~there[1:]) + 1
    text = f"the header record promises the images 1 ... {stop - 1}"
    places = (Place(path, text, key) for key in missing.tolist())
    findings.add("images_missing", places, len(missing))
    beyond = np.flatnonzero(table.keys >= end)
    text = f"the header record states {end - 1} as the last key"
    findings.add("beyond_end", table.places(beyond, lambda _: text), len(beyond))


def _check_ranges(
    table: RecordTable, extras: Extras, images: Mask, stop: int, end: int, findings: Findings
) -> None:
    """Check that the identities' key ranges cover the images 1 … stop - 1, one label each."""
    keys = table.keys[extras.rows]
    mine = (keys >= stop) & (keys < end) & (extras.flags == 2)
    rows, labels = extras.rows[mine], extras.labels[mine]
    inside = np.isfinite(labels).all(axis=1) & (labels[:, 0] >= 1) & (labels[:, 1] <= stop)
    inside &= labels[:, 0] < labels[:, 1]
    first = np.where(inside, labels[:, 0], 1).astype(np.int64)
    stops = np.where(inside, labels[:, 1], 1).astype(np.int64)
    # The labels change so often in a range as from its first image to its last, of those that
    # are there: the others are reported elsewhere.
    order = np.argsort(table.keys[images], kind="stable")
    there, label = table.keys[images][order], table.labels[images][order]
    changes = np.append(0, np.cumsum(label[1:] != label[:-1]))
    ends = np.searchsorted(there, first), np.maximum(np.searchsorted(there, stops) - 1, 0)
    mixed = inside & (changes[np.minimum(ends[0], ends[1])] != changes[ends[1]])
    steps = np.bincount(first[inside], minlength=stop + 1)
    covered = np.cumsum(steps - np.bincount(stops[inside], minlength=stop + 1))[1:stop]

    def text(row: int) -> str:
        a, b = labels[np.searchsorted(rows, row)]
        return f"the keys from {a:g} up to {b:g}, which is not in it, are no one identity's images"

    bad = rows[~inside | mixed]
    findings.add("range", table.places(bad, text), len(bad))
    for places_of, how in ((covered == 0, "no"), (covered > 1, "more than one")):
        marked = np.flatnonzero(places_of) + 1
        places = (Place(str(table.files[0]), f"image in {how} range", k) for k in marked.tolist())
        findings.add("range", places, len(marked))


def check_labels(table: RecordTable, images: Mask, findings: Findings) -> Mask:
    """Return which of the images have a class number as label, bool [n]; report other labels."""
    with np.errstate(invalid="ignore"):
        good: Mask = (np.floor(table.labels) == table.labels) & (table.labels >= 0)
        good &= table.labels < INEXACT_FROM
    bad = np.flatnonzero(images & ~good)

    def text(row: int) -> str:
        large = table.labels[row] >= INEXACT_FROM
        why = ", where labels stored as float32 run into each other" if large else ""
        return f"its label is {table.labels[row]:.9g}{why}"

    findings.add("label", table.places(bad, text), len(bad))
    good &= images
    present = np.bincount(table.labels[good].astype(np.int64)) > 0
    # One place for each run of neighbouring gaps.
    edges = np.flatnonzero(np.diff(np.append(True, present)) != 0)
    runs = zip(edges[0::2].tolist(), edges[1::2].tolist(), strict=True)
    most = len(present) - 1
    places = (
        Place(table.name, f"label{f's {a} to {b - 1}' if b > a + 1 else f' {a}'} of 0 to {most}")
        for a, b in runs
    )
    findings.add("label_gap", places, int(np.count_nonzero(~present)))
    return good


def check_sizes(table: RecordTable, findings: Findings) -> None:
    """Report images that are not of the most common size."""
    decoded = np.flatnonzero(table.sizes[:, 0])
    if not len(decoded):
        return
    widths, heights = table.sizes[decoded].astype(np.int64).T
    packed = widths << 16 | heights
    found, counts = np.unique(packed, return_counts=True)
    usual = found[np.argmax(counts)]
    usual_size = f"{usual >> 16}x{usual & 0xFFFF}"
    if 2 * counts.max() <= len(decoded):
        text = f"{len(found)} sizes, most often {usual_size} ({counts.max()} of {len(decoded)})"
        findings.add("many_sizes", [Place(table.name, text)])
        return
    odd = decoded[packed != usual]

    def detail(row: int) -> str:
        width, height = table.sizes[row]
        return f"{width}x{height} pixels, most are {usual_size}"

    findings.add("odd_size", table.places(odd, detail), len(odd))


def possible_copies(table: RecordTable, images: Mask) -> Rows:
    """Return the rows of images that share their fingerprint with another, rising."""
    prints = np.sort(table.fingerprints[images])
    repeated = np.unique(prints[1:][prints[1:] == prints[:-1]])
    del prints
    if not len(repeated):
        return np.empty(0, np.int64)
    place = np.searchsorted(repeated, table.fingerprints)
    place[place == len(repeated)] = 0
    return np.flatnonzero(images & (repeated[place] == table.fingerprints))


def report_copies(table: RecordTable, rows: Rows, digests: list[bytes], findings: Findings) -> None:
    """Report images with the same bytes; `digests` are those of `rows`."""
    groups: dict[bytes, list[int]] = {}
    for row, digest in zip(rows.tolist(), digests, strict=True):
        groups.setdefault(digest, []).append(row)
    for group in groups.values():
        labels = sorted({int(table.labels[row]) for row in group})
        if len(group) == 1:
            continue
        copies, name = (group[1:], "duplicate") if len(labels) == 1 else (group, "label_noise")
        findings.add(name, _copies(table, group, copies, labels), len(copies))


def _copies(
    table: RecordTable, group: list[int], copies: list[int], labels: list[int]
) -> Iterator[Place]:
    """Yield the places of `copies`, each with another image of the group."""
    all_labels = ", ".join(str(label) for label in labels[:5]) + ", ..." * (len(labels) > 5)

    def detail(row: int) -> str:
        other = group[0] if row != group[0] else group[1]
        elsewhere = table.file_of(other) != table.file_of(row)
        where = f"key {table.keys[other]}{f' of {table.file_of(other)}' if elsewhere else ''}"
        noise = f"; their labels are {all_labels}" if len(labels) > 1 else ""
        return f"label {table.labels[row]:g}, the same image as {where}{noise}"

    return table.places(np.array(copies), detail)
