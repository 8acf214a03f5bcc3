"""Lists of images: text with `path<tab>label` or `path,label`, and the `.lst` of MXNet's tools.

    path<tab>label, or path,label    as CSV is written: a field with the separator or a quote in it
                                     is in double quotes. The first line shows which separator it
                                     is, and may be the heading `path,label`.
    index<tab>label<tab>path         in a file whose name ends in .lst, without quotes. There may
                                     be any number of labels; the first is the class.

A path or a label with a control character, and a path that is too long for a file, are refused.
White space around fields and blank lines are ignored. If all labels are whole numbers, `7` or
`7.000`, they are class numbers; otherwise all of them are names. In a `.lst` they must be numbers.
"""

import csv
import logging
import os
import re
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, NoReturn

import numpy as np

from data.records.format import Int32s

logger = logging.getLogger(__name__)

_LONGEST_LINE = 1 << 20  # characters; csv limits fields to 131,072 of them
_LONGEST_NAME, _LONGEST_PATH = 255, 4095  # bytes, of nearly all file systems and of Linux
_CONTROL = re.compile(r"[\0-\x1f\x7f-\x9f]")
_HEADING = ["path", "label"]
_NUMBER = re.compile(r"(\d{1,15})(?:\.0*)?", re.ASCII)
_NO_CLASS = re.compile(r"-\d+(?:\.\d*)?|\d+\.\d+|nan", re.ASCII | re.IGNORECASE)
_INDEX = re.compile(r"\d{1,18}", re.ASCII)


class ListError(ValueError):
    """A list with rows that make no sense or contradict each other; names the lines."""


def path_fault(path: str) -> str | None:
    """Return what makes a listed path unusable, and what is expected; None for any other path."""
    if found := _CONTROL.search(path):
        return f"the control character {found[0]!r} in it; expected UTF-8 text without any"
    longest = max(map(len, map(os.fsencode, path.split("/"))))
    if longest > _LONGEST_NAME or len(os.fsencode(path)) > _LONGEST_PATH:
        return (
            f"a path with a name of {longest:,} bytes, {len(os.fsencode(path)):,} in all; expected "
            f"at most {_LONGEST_NAME} per name and {_LONGEST_PATH:,} in all"
        )
    return None


class Texts:
    """An immutable sequence of texts in two arrays.

    A list of 17 million file names takes 1.5 GB, and worker processes copy it page by page, since
    every access to an object changes its reference count.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        content, ends = bytearray(), array("q", [0])
        for text in texts:
            # File names need not be UTF-8; Python keeps their other bytes as lone surrogates.
            content += text.encode("utf-8", "surrogateescape")
            ends.append(len(content))
        self._content, self._ends = bytes(content), ends

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> str:
        if not 0 <= index < len(self):
            raise IndexError(f"text {index} of {len(self)}")
        text = self._content[self._ends[index] : self._ends[index + 1]]
        return text.decode("utf-8", "surrogateescape")

    def __iter__(self) -> Iterator[str]:
        return (self[index] for index in range(len(self)))


@dataclass(frozen=True)
class ImageList:
    """The n images of a list."""

    paths: Texts  # as they are written
    labels: Int32s  # [n], positions in `names`
    names: Sequence[int | str]  # the labels, sorted: whole numbers, or texts


class _Row(NamedTuple):
    line: int
    path: str
    label: str
    key: int | None = None


def read_list(path: Path) -> ImageList:
    """Read the list at `path`: MXNet's if its suffix is `.lst`, otherwise text.

    Raises `ListError`, naming the line, for a row of another form, and naming both for two rows
    with the same path or the same index.
    """
    rows = _mxnet_rows(path) if path.suffix.lower() == ".lst" else _text_rows(path)
    lines, hashes, indices, labels = array("q"), array("q"), array("q"), array("i")
    positions: dict[str, int] = {}  # of each label, in the order of appearance

    def paths() -> Iterator[str]:
        for row in rows:
            _check(path, row)
            lines.append(row.line)
            hashes.append(hash(_normal(row.path)))
            labels.append(positions.setdefault(row.label, len(positions)))
            if row.key is not None:
                indices.append(row.key)
            yield row.path

    try:
        listed = Texts(paths())
    except OSError as error:
        raise ListError(f"{path} cannot be read as a list: {error}") from error
    if not len(listed):
        raise ListError(f"{path} names no image: expected lines with a path and a label")
    for first, second in _repeated(hashes):
        if _normal(listed[first]) == _normal(listed[second]):
            texts = list(positions)
            raise ListError(
                f"{path}, line {lines[second]}: {listed[second]!r}, label "
                f"{texts[labels[second]]}, was on line {lines[first]} already with label "
                f"{texts[labels[first]]}: expected every image once; remove one of the lines"
            )
    for first, second in _repeated(indices):
        raise ListError(
            f"{path}, line {lines[second]}: index {indices[second]} was on line {lines[first]} "
            "already: expected every index once; renumber the lines"
        )
    names, order = _names(path, positions)
    return ImageList(listed, order[np.frombuffer(labels, np.int32)], names)


def _check(path: Path, row: _Row) -> None:
    """Refuse a row whose path cannot be a file's, or that could not be shown."""
    # A character has four bytes at most. White space other than a blank is not printable here.
    if len(row.path) < 64 and row.path.isprintable() and row.label.isprintable():
        return
    for text in (row.path, row.label):
        if (text is row.path or _CONTROL.search(text)) and (fault := path_fault(text)):
            raise ListError(
                f"{path}, line {row.line}: found {text[:80]!r}, {fault}; rename the file and "
                "correct the line, or leave it out"
            )


def _mxnet_rows(path: Path) -> Iterator[_Row]:
    is_logged = False
    for number, line in _lines(path):
        fields = [field.strip() for field in line.split("\t")]
        if len(fields) < 3 or not fields[-1] or not _INDEX.fullmatch(fields[0]):
            _refuse(path, number, line, "index<tab>label<tab>path")
        if not _NUMBER.fullmatch(fields[1]):
            _refuse(path, number, line, "a class number as the label: a whole number from 0 on")
        if len(fields) > 3 and not is_logged:
            is_logged = True
            text = "%s, line %d: %d labels: only the first counts, here and in later lines"
            logger.warning(text, path, number, len(fields) - 2)
        yield _Row(number, fields[-1], fields[1], int(fields[0]))


def _text_rows(path: Path) -> Iterator[_Row]:
    separator = "\t" if "\t" in next(_lines(path), (0, ""))[1] else ","
    form = "path<tab>label" if separator == "\t" else "path,label"
    # strict: otherwise a path that begins with a quote would lose it
    reader = csv.reader(_raw_lines(path, newline=""), delimiter=separator, strict=True)
    is_first = True
    try:
        for row in reader:
            fields = [field.strip() for field in row]
            if not any(fields):
                continue
            if is_first:
                is_first = False
                if [field.lower() for field in fields] == _HEADING:
                    continue
            expected = ""
            if len(fields) != 2 or not all(fields):
                expected = f"{form}, with a path that contains the separator in double quotes"
            elif _NO_CLASS.fullmatch(fields[1]) and not _NUMBER.fullmatch(fields[1]):
                expected = "a name or a whole number from 0 on as label"
            if expected:
                _refuse(path, reader.line_num, separator.join(row), expected)
            yield _Row(reader.line_num, fields[0], fields[1])
    except csv.Error as error:
        raise ListError(
            f"{path}, line {reader.line_num}: {error}: expected {form}; put a field that "
            "contains a quote in double quotes, and write the quote twice"
        ) from error


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines that are not blank, with their numbers."""
    for number, line in enumerate(_raw_lines(path, newline="\n"), start=1):
        if line.strip():
            yield number, line


def _raw_lines(path: Path, *, newline: str) -> Iterator[str]:
    """Yield all lines, as `open` divides them; refuse one that would take much memory."""
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline=newline) as file:
        for number, line in enumerate(iter(lambda: file.readline(_LONGEST_LINE), ""), start=1):
            if len(line) == _LONGEST_LINE:
                _refuse(path, number, line, f"lines of less than {_LONGEST_LINE:,} characters")
            yield line


def _refuse(path: Path, line: int, text: str, expected: str) -> NoReturn:
    raise ListError(
        f"{path}, line {line}: found {text.strip()[:80]!r}, expected {expected}; correct the line "
        "or leave it out"
    )


def _normal(path: str) -> str:
    """Return the path without detours, so that two ways to write it are equal."""
    return os.path.normpath(path) if "./" in path or "//" in path else path


def _repeated(values: Sequence[int]) -> Iterable[tuple[int, int]]:
    """Yield positions of equal values, the later ones in order, each with its first position."""
    numbers = np.array(values, np.int64)
    order = np.argsort(numbers, kind="stable")
    in_order = numbers[order]
    starts = np.searchsorted(in_order, in_order)  # of each run of equal values
    later = np.flatnonzero(starts != np.arange(len(order)))
    later = later[np.argsort(order[later], kind="stable")]
    return zip(order[starts[later]].tolist(), order[later].tolist(), strict=True)


def _names(path: Path, positions: dict[str, int]) -> tuple[Sequence[int | str], Int32s]:
    """Return the sorted names of the labels, and for each of `positions` its row in them."""
    matches = [_NUMBER.fullmatch(text) for text in positions]
    values: list[int | str] = [int(match[1]) for match in matches if match is not None]
    if len(values) < len(positions):
        if values:
            text = next(t for t, match in zip(positions, matches, strict=True) if match is None)
            logger.warning(
                "%s: %d labels are numbers, %d are not (%r is the first): all are taken as names",
                path, len(values), len(positions) - len(values), text,
            )  # fmt: skip
        values = list(positions)
    names = sorted(set(values))
    row_of = {name: row for row, name in enumerate(names)}
    return names, np.array([row_of[value] for value in values], np.int32)
