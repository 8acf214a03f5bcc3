"""Checks of what records hold: header record, key ranges, labels, sizes, copies."""

from collections.abc import Iterable
from itertools import chain, pairwise

import numpy as np
import numpy.typing as npt

from data.records.index import RecordIndex
from data.records.labels import INEXACT_FROM, key_bounds
from data.tools.check.records import NO_KEY, RecordTable, RowIndices
from data.tools.check.scan import DamagedFile, Offsets
from data.tools.findings import Findings, Place

Mask = npt.NDArray[np.bool_]


def find_images(file: DamagedFile, table: RecordTable, named: Offsets, findings: Findings) -> Mask:
    """Return which records of a file are its images, bool [n]; their labels may be bad.

    Checks the header record and the key ranges too. `named` are all keys of the index.
    """
    keys, is_named = table.keys, table.keys != NO_KEY
    images: Mask = (table.image_sizes > 0) & is_named
    empty = (table.image_sizes == 0) & is_named
    pairs = empty & (table.flags == 2)  # the header record and the key ranges
    short = np.flatnonzero((table.image_sizes < 0) & is_named)
    table.report("no_header", short, "it has no header", findings)
    by_key = RecordIndex(keys[is_named], table.offsets[is_named]).sorted()
    bounds = key_bounds(file, by_key) if is_named.any() else None
    if bounds is not None:
        stop, end = bounds
        for mask in (images, empty):
            mask &= (keys > 0) & (keys < stop)
        _check_promise(table, named, stop, end, findings)
        if stop < end < INEXACT_FROM:  # others cannot be stored exactly
            _check_ranges(table, pairs & (keys >= stop) & (keys < end), images, stop, findings)
    elif not (keys == 0).any():  # record 0 is lost, and these are its key ranges
        empty &= ~pairs
    table.report("no_image", np.flatnonzero(empty), "it holds only a header", findings)
    return images


def _check_promise(
    table: RecordTable, named: Offsets, stop: int, end: int, findings: Findings
) -> None:
    known = np.sort(named[(named > 0) & (named < stop)], kind="stable")  # np.unique takes 100 times
    known = known[np.diff(known, prepend=0) > 0]
    # One by one as they are asked for: a damaged header record may state a quintillion images.
    gaps = (range(a + 1, b) for a, b in pairwise(chain([0], known.tolist(), [stop])))
    text = f"the header record states the images 1 ... {stop - 1}"
    places = (Place(table.name, text, key) for key in chain.from_iterable(gaps))
    findings.add("images_missing", places, stop - 1 - len(known))
    text = f"the header record states {end - 1} as the last key"
    table.report("beyond_end", np.flatnonzero(table.keys >= end), text, findings)


def _check_ranges(
    table: RecordTable, ranges: Mask, images: Mask, stop: int, findings: Findings
) -> None:
    """Check that the identities' key ranges cover the images 1 … stop - 1, one label each."""
    rows, labels = np.flatnonzero(ranges), table.labels[ranges]
    inside = np.isfinite(labels).all(axis=1) & (labels[:, 0] >= 1) & (labels[:, 1] <= stop)
    inside &= labels[:, 0] < labels[:, 1]
    first, stops = np.where(inside[:, None], labels, 1).astype(np.int64).T
    # A range has one label if none changes from its first image to its last, of those that are
    # there: missing ones are reported elsewhere.
    order = np.argsort(table.keys[images], kind="stable")
    there, label = table.keys[images][order], table.labels[images, 0][order]
    changes = np.append(0, np.cumsum(label[1:] != label[:-1]))
    ends = np.searchsorted(there, first), np.maximum(np.searchsorted(there, stops) - 1, 0)
    mixed = inside & (changes[np.minimum(*ends)] != changes[ends[1]])
    begin, end = (np.bincount(keys[inside], minlength=stop + 1) for keys in (first, stops))
    covered = np.cumsum(begin - end)[1:stop]

    def text(row: int) -> str:
        a, b = table.labels[row]
        return f"the keys from {a:g} up to but not including {b:g} are not one identity's images"

    table.report("range", rows[~inside | mixed], text, findings)
    for wrong, how_many in ((covered == 0, "no"), (covered > 1, "more than one")):
        marked = (np.flatnonzero(wrong) + 1).tolist()
        places = (Place(table.name, f"image in {how_many} range", k) for k in marked)
        findings.add("range", places, len(marked))


def check_labels(table: RecordTable, images: Mask, findings: Findings) -> Mask:
    """Return which of the images have a class number as label, bool [n]; report other labels."""
    labels = table.labels[:, 0]
    with np.errstate(invalid="ignore"):
        good: Mask = (np.floor(labels) == labels) & (labels >= 0) & (labels < INEXACT_FROM)

    def text(row: int) -> str:
        large = labels[row] >= INEXACT_FROM
        why = ", where labels stored as float32 are not exact" if large else ""
        return f"its label is {labels[row]:.9g}{why}"

    table.report("label", np.flatnonzero(images & ~good), text, findings)
    good &= images
    present = np.bincount(labels[good].astype(np.int64)) > 0
    # One place for each run of gaps next to each other.
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
    sizes = table.sizes
    decoded = np.flatnonzero(sizes[:, 0])
    if not len(decoded):
        return
    packed = sizes[decoded].astype(np.int64) @ (1 << 16, 1)
    found, counts = np.unique(packed, return_counts=True)
    usual = found[np.argmax(counts)]
    usual_size = f"{usual >> 16}x{usual & 0xFFFF}"
    if 2 * counts.max() <= len(decoded):
        text = f"{len(found)} sizes, most often {usual_size} ({counts.max()} of {len(decoded)})"
        findings.add("many_sizes", [Place(table.name, text)])
        return

    def detail(row: int) -> str:
        return f"{sizes[row, 0]}x{sizes[row, 1]} pixels, most are {usual_size}"

    table.report("odd_size", decoded[packed != usual], detail, findings)


def possible_copies(table: RecordTable, images: Mask) -> RowIndices:
    """Return the rows of images that share their fingerprint with another, rising."""
    fingerprints = table.fingerprints
    in_order = np.sort(fingerprints[images])
    repeated = in_order[1:][in_order[1:] == in_order[:-1]]
    del in_order
    if not len(repeated):
        return np.empty(0, np.int64)
    nearest = np.searchsorted(repeated, fingerprints)
    nearest[nearest == len(repeated)] = 0
    return np.flatnonzero(images & (repeated[nearest] == fingerprints))


def report_copies(
    table: RecordTable, rows: RowIndices, digests: Iterable[bytes], findings: Findings
) -> None:
    """Report images with the same bytes; `digests` are those of `rows`."""
    groups: dict[bytes, list[int]] = {}
    for row, digest in zip(rows.tolist(), digests, strict=True):
        groups.setdefault(digest, []).append(row)
    for group in groups.values():
        if len(group) > 1:
            _report_group(table, group, findings)


def _report_group(table: RecordTable, group: list[int], findings: Findings) -> None:
    """Report images that are the same: the further ones, or all where their labels differ."""
    labels = sorted({int(table.labels[row, 0]) for row in group})
    noise = ""
    if len(labels) > 1:
        listed = ", ".join(str(label) for label in labels[:5]) + ", ..." * (len(labels) > 5)
        noise = f"; their labels are {listed}"

    def detail(row: int) -> str:
        other = group[0] if row != group[0] else group[1]
        file = table.file_of(other)
        key = f"{table.keys[other]}{f' of {file}' if file != table.file_of(row) else ''}"
        return f"label {table.labels[row, 0]:g}, the same image as key {key}{noise}"

    if noise:
        table.report("label_noise", np.array(group), detail, findings)
    else:
        table.report("duplicate", np.array(group[1:]), detail, findings)
