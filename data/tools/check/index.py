"""Compares an `.idx` with the records that are really there."""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from data.records.format import RecordError
from data.records.index import INDEX_LINE, read_index
from data.tools.check.records import RecordTable
from data.tools.check.scan import DamagedFile, Offsets
from data.tools.findings import Findings, Place


@dataclass(frozen=True)
class _Entries:
    """The m well-formed entries of an `.idx`: int64 [m], and the line of each, from 1 on."""

    path: Path
    keys: Offsets
    offsets: Offsets
    lines: Sequence[int]

    def report(self, kind: str, text: str, entries: Offsets, findings: Findings) -> None:
        """Add a finding for each of `entries`, positions int64 [k]."""
        rows = entries.tolist()
        places = (
            Place(str(self.path), text, int(self.keys[i]), int(self.offsets[i]), self.lines[i])
            for i in rows
        )
        findings.add(kind, places, len(rows))


def check_index(file: DamagedFile, table: RecordTable, findings: Findings) -> Offsets:
    """Fill in the keys of a file's records, and return all keys that its index has.

    Those include keys that lead to no record. The damage of `file` is known; `table` are its whole
    records. Without an index the keys are the ids, or 0, 1, 2 … where those are not all different.
    """
    idx = Path(file.path).with_suffix(".idx")
    keys, ids, have_header = table.keys, table.ids, table.image_sizes >= 0
    if not idx.is_file():
        findings.add("no_index", [Place(str(file.path), "it has no .idx next to it")])
        keys[:] = ids.view(np.int64)
        in_order = np.sort(keys)
        if not have_header.all() or (keys < 0).any() or (in_order[1:] == in_order[:-1]).any():
            keys[:] = np.arange(len(keys))
        return keys
    entries = _read(idx, findings)
    _check_keys(entries, findings)
    rows = np.searchsorted(table.offsets, entries.offsets)
    found = rows < len(keys)
    found[found] = table.offsets[rows[found]] == entries.offsets[found]
    _report_lost(entries, ~found, file, findings)
    first_wins = np.flatnonzero(found)[::-1]
    keys[rows[first_wins]] = entries.keys[first_wins]
    count = np.bincount(rows[found], minlength=len(keys))
    # Ids that differ from the keys, where most are the same: not every writer sets them.
    known = have_header & (count > 0)
    other = known & (ids != keys.astype(np.uint64))
    other &= 2 * np.count_nonzero(other) < np.count_nonzero(known)
    for kind, marked, detail in (
        ("index_missing", count == 0, "no line of the .idx leads to this record"),
        ("index_repeated_offset", count > 1, "the .idx has this record more than once"),
        ("other_id", other, lambda row: f"the record's id is {ids[row]}"),
    ):
        table.report(kind, np.flatnonzero(marked), detail, findings)
    return entries.keys


def _read(path: Path, findings: Findings) -> _Entries:
    """Read all lines that can be read: in bulk, or one by one where some cannot."""
    try:
        index = read_index(path)
    except RecordError:
        return _read_by_line(path, findings)
    if len(index.keys) == 0:
        findings.add("index_line", [Place(str(path), "it names no records")])
    return _Entries(path, index.keys, index.offsets, range(1, len(index.keys) + 1))


def _read_by_line(path: Path, findings: Findings) -> _Entries:
    keys, offsets, lines = array("q"), array("q"), array("q")
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            text = line.rstrip(b"\r\n")
            match = INDEX_LINE.fullmatch(text)
            if match is None:
                findings.add("index_line", [Place(str(path), f"found {text[:60]!r}", line=number)])
                continue
            keys.append(int(match[1]))
            offsets.append(int(match[2]))
            lines.append(number)
    return _Entries(path, np.array(keys, np.int64), np.array(offsets, np.int64), lines)


def _check_keys(entries: _Entries, findings: Findings) -> None:
    in_order = np.sort(entries.keys, kind="stable")  # fast where they are nearly in order
    repeated = np.unique(in_order[1:][in_order[1:] == in_order[:-1]])
    rows = np.flatnonzero(np.isin(entries.keys, repeated))
    _, first = np.unique(entries.keys[rows], return_index=True)
    again = np.delete(rows, first)
    text = "an earlier line has this key"
    places = (
        Place(str(entries.path), text, int(entries.keys[i]), line=entries.lines[i])
        for i in again.tolist()
    )
    findings.add("index_repeated_key", places, len(again))


def _report_lost(
    entries: _Entries, lost: npt.NDArray[np.bool_], file: DamagedFile, findings: Findings
) -> None:
    """Tell apart why entries lead to no whole record."""
    outside = lost & (entries.offsets > file.size - 8)
    ranges = np.array(file.damage, np.int64).reshape(-1, 2)
    before = np.searchsorted(ranges[:, 0], entries.offsets, side="right") - 1
    damaged = lost & ~outside & (before >= 0)
    damaged[damaged] = entries.offsets[damaged] < ranges[before[damaged], 1]
    for kind, marked, text in (
        ("index_outside", outside, f"the .rec has {file.size} bytes"),
        ("index_lost", damaged, "the .rec is damaged there"),
        ("index_elsewhere", lost & ~outside & ~damaged, "this is inside another record"),
    ):
        entries.report(kind, text, np.flatnonzero(marked), findings)
