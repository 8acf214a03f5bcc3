"""Holds an `.idx` against the records that are really there."""

import re
from array import array
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from data.records.format import RecordError
from data.records.index import RecordIndex, read_index
from data.tools.check.window import Offsets, Span
from data.tools.findings import Findings, Place

NO_KEY = -1
_LINE = re.compile(rb"\d{1,18}\t\d{1,18}")


@dataclass(frozen=True)
class _Entries:
    """The entries of an `.idx` that are well-formed, int64 [m].

    `lines`, from 1 on, are given only where some lines are not.
    """

    keys: Offsets
    offsets: Offsets
    lines: Offsets | None

    def line(self, entry: int) -> int:
        """Return the line of an entry."""
        return entry + 1 if self.lines is None else int(self.lines[entry])


def check_index(
    path: Path,
    size: int,
    offsets: Offsets,
    ids: npt.NDArray[np.uint64],
    headed: npt.NDArray[np.bool_],
    damage: list[Span],
    findings: Findings,
) -> tuple[Offsets, Offsets]:
    """Return the key of each of the n records, and all keys that the index has or stands in for.

    Args:
        path: the `.rec`; its index has the same name.
        size: of the `.rec` in bytes.
        offsets: where whole records start; int64 [n], rising.
        ids: of these records; uint64 [n].
        headed: whether they have a header, and so an id; bool [n].
        damage: bytes that belong to no whole record, in order.
        findings: what is wrong with the index is added here.

    Returns:
        keys: int64 [n], `NO_KEY` for a record that the index does not name. Without an index the
            ids, or 0, 1, 2 … where those are not all different.
        named: int64, all keys, including those that lead to no record.
    """
    idx = path.with_suffix(".idx")
    if not idx.is_file():
        findings.add("no_index", [Place(str(path), "it has no .idx beside it")])
        keys = ids.view(np.int64)
        in_order = np.sort(keys)
        if not headed.all() or (keys < 0).any() or (in_order[1:] == in_order[:-1]).any():
            keys = np.arange(len(offsets))
        return keys, keys
    entries = _read(idx, findings)
    _check_keys(idx, entries, findings)
    rows = np.searchsorted(offsets, entries.offsets)
    found = rows < len(offsets)
    found[found] = offsets[rows[found]] == entries.offsets[found]
    _report_lost(idx, entries, ~found, size, damage, findings)
    lines_of_row = np.bincount(rows[found], minlength=len(offsets))
    keys = np.full(len(offsets), NO_KEY)
    first_wins = np.flatnonzero(found)[::-1]
    keys[rows[first_wins]] = entries.keys[first_wins]
    for name, count, text in (
        ("index_missing", lines_of_row == 0, "a record that no line of the .idx leads to"),
        ("index_repeated_offset", lines_of_row > 1, "the .idx has this record more than once"),
    ):
        marked = np.flatnonzero(count)
        places = (
            Place(
                str(path), text, None if keys[row] == NO_KEY else int(keys[row]), int(offsets[row])
            )
            for row in marked.tolist()
        )
        findings.add(name, places, len(marked))
    _check_ids(path, np.where(headed, keys, NO_KEY), ids, offsets, findings)
    return keys, entries.keys


def _read(path: Path, findings: Findings) -> _Entries:
    """Read all lines that can be read."""
    lines: Offsets | None
    try:
        index, lines = read_index(path), None
    except RecordError:
        index, lines = _read_by_line(path, findings)
    if len(index.keys) == 0 and findings.count("index_line") == 0:
        findings.add("index_line", [Place(str(path), "it names no records")])
    return _Entries(index.keys, index.offsets, lines)


def _read_by_line(path: Path, findings: Findings) -> tuple[RecordIndex, Offsets]:
    """Read a damaged index, slowly."""
    keys, offsets, lines, bad = array("q"), array("q"), array("q"), []
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            text = line.rstrip(b"\r\n")
            if _LINE.fullmatch(text):
                key, _, offset = text.partition(b"\t")
                keys.append(int(key))
                offsets.append(int(offset))
                lines.append(number)
            else:
                bad.append(Place(str(path), f"found {text[:60]!r}", line=number))
    findings.add("index_line", bad)
    index = RecordIndex(np.array(keys, np.int64), np.array(offsets, np.int64))
    return index, np.array(lines, np.int64)


def _check_keys(path: Path, entries: _Entries, findings: Findings) -> None:
    in_order = np.sort(entries.keys)
    repeated = np.unique(in_order[1:][in_order[1:] == in_order[:-1]])
    if not len(repeated):
        return
    rows = np.flatnonzero(np.isin(entries.keys, repeated))
    _, first = np.unique(entries.keys[rows], return_index=True)
    again = np.delete(rows, first)
    places = (
        Place(str(path), "an earlier line has this key", int(entries.keys[i]), line=entries.line(i))
        for i in again.tolist()
    )
    findings.add("index_repeated_key", places, len(again))


def _report_lost(
    path: Path,
    entries: _Entries,
    lost: npt.NDArray[np.bool_],
    size: int,
    damage: list[Span],
    findings: Findings,
) -> None:
    """Tell apart why entries lead to no whole record."""
    outside = lost & (entries.offsets > size - 8)
    spans = np.array(damage, np.int64).reshape(-1, 2)
    before = np.searchsorted(spans[:, 0], entries.offsets, side="right") - 1
    damaged = lost & ~outside & (before >= 0)
    damaged[damaged] = entries.offsets[damaged] < spans[before[damaged], 1]
    for name, marked, text in (
        ("index_outside", outside, f"the .rec has {size} bytes"),
        ("index_lost", damaged, "the .rec is damaged there"),
        ("index_elsewhere", lost & ~outside & ~damaged, "this is inside another record"),
    ):
        places = (
            Place(
                str(path),
                text,
                int(entries.keys[i]),
                int(entries.offsets[i]),
                entries.line(i),
            )
            for i in np.flatnonzero(marked).tolist()
        )
        findings.add(name, places, int(np.count_nonzero(marked)))


def _check_ids(
    path: Path,
    keys: Offsets,
    ids: npt.NDArray[np.uint64],
    offsets: Offsets,
    findings: Findings,
) -> None:
    """Report ids that differ from the keys, where most are the same: not every writer sets them."""
    other = np.flatnonzero((keys != NO_KEY) & (ids != keys.astype(np.uint64)))
    if len(other) * 2 < np.count_nonzero(keys != NO_KEY):
        places = (
            Place(str(path), f"the record's id is {ids[row]}", int(keys[row]), int(offsets[row]))
            for row in other.tolist()
        )
        findings.add("other_id", places, len(other))
