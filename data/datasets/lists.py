"""Lists of images: text with `path<tab>label` or `path,label`, and the `.lst` of MXNet's tools.

    path<tab>label, or path,label    as CSV is written: what has the separator or a quote in it is
                                     in double quotes. The first line says which separator it is,
                                     and may be the heading `path,label`.
    index<tab>label<tab>path         in a file whose name ends in .lst, without quotes. There may
                                     be any number of labels, of which the first is the class.

White space around fields and blank lines are passed over. Labels that are all whole numbers, `7`
or `7.000`, are class numbers; otherwise all of them are names. In a `.lst` they must be numbers.
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
import numpy.typing as npt

from data.datasets.texts import Texts

logger = logging.getLogger(__name__)

_HEAD = ["path", "label"]
_NUMBER = re.compile(r"(\d{1,15})(?:\.0*)?", re.ASCII)
_NO_CLASS = re.compile(r"-\d+(?:\.\d*)?|\d+\.\d+|nan", re.ASCII | re.IGNORECASE)
_INDEX = re.compile(r"\d{1,18}", re.ASCII)


class ListError(ValueError):
    """A list with rows that make no sense or contradict each other; names the lines."""


@dataclass(frozen=True)
class ImageList:
    """The n images of a list.

    Attributes:
        paths: as they are written.
        labels: place of each image's label in `names`; int32 [n].
        names: the labels, sorted: whole numbers, or texts.
    """

    paths: Texts
    labels: npt.NDArray[np.int32]
    names: Sequence[int | str]


class _Row(NamedTuple):
    line: int
    path: str
    label: str
    key: int | None = None


def read_list(path: Path) -> ImageList:
    """Read the list at `path`, of a kind that its suffix tells: `.lst`, or any other for text.

    A first line `path,label` is a heading. Raises `ListError`, naming the line, for a row of
    another form, and naming both for two rows with the same path or the same index.
    """
    rows = _mxnet_rows(path) if path.suffix.lower() == ".lst" else _text_rows(path)
    lines, hashes, indices, labels = array("q"), array("q"), array("q"), array("i")
    places: dict[str, int] = {}  # of each label, in the order of appearance

    def paths() -> Iterator[str]:
        for row in rows:
            lines.append(row.line)
            hashes.append(hash(_plain(row.path)))
            labels.append(places.setdefault(row.label, len(places)))
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
        if _plain(listed[first]) == _plain(listed[second]):
            texts = list(places)
            raise ListError(
                f"{path}, line {lines[second]}: {listed[second]!r}, label "
                f"{texts[labels[second]]}, was on line {lines[first]} already with label "
                f"{texts[labels[first]]}: expected every image once; remove one of the lines"
            )
    for first, second in _repeated(indices):
        raise ListError(
            f"{path}, line {lines[second]}: index {indices[second]} was on line {lines[first]} "
            "already: expected every index once; number the lines afresh"
        )
    names, order = _names(path, places)
    return ImageList(listed, order[np.frombuffer(labels, np.int32)], names)


def _mxnet_rows(path: Path) -> Iterator[_Row]:
    several_are_told = False
    for number, line in _lines(path):
        fields = [field.strip() for field in line.split("\t")]
        if len(fields) < 3 or not fields[-1] or not _INDEX.fullmatch(fields[0]):
            _refuse(path, number, line, "index<tab>label<tab>path")
        if not _NUMBER.fullmatch(fields[1]):
            _refuse(path, number, line, "a class number as the label: a whole number from 0 on")
        if len(fields) > 3 and not several_are_told:
            several_are_told = True
            text = "%s, line %d: %d labels: of several only the first counts, here and below"
            logger.warning(text, path, number, len(fields) - 2)
        yield _Row(number, fields[-1], fields[1], int(fields[0]))


def _text_rows(path: Path) -> Iterator[_Row]:
    separator = "\t" if "\t" in next(_lines(path), (0, ""))[1] else ","
    form = "path<tab>label" if separator == "\t" else "path,label"
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        # strict: a path that begins with a quote would lose it otherwise
        reader = csv.reader(file, delimiter=separator, strict=True)
        is_first = True
        try:
            for row in reader:
                fields = [field.strip() for field in row]
                if not any(fields):
                    continue
                if is_first:
                    is_first = False
                    if [field.lower() for field in fields] == _HEAD:
                        continue
                expected = ""
                if len(fields) != 2 or not all(fields):
                    expected = f"{form}, a path that has the separator in it in double quotes"
                elif _NO_CLASS.fullmatch(fields[1]) and not _NUMBER.fullmatch(fields[1]):
                    expected = "a name or a whole number from 0 on as label"
                if expected:
                    _refuse(path, reader.line_num, separator.join(row), expected)
                yield _Row(reader.line_num, fields[0], fields[1])
        except csv.Error as error:
            raise ListError(
                f"{path}, line {reader.line_num}: {error}: expected {form}; a field that has a "
                "quote in it goes into double quotes, and the quote is written twice"
            ) from error


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines that are not blank, with their numbers."""
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="\n") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield number, line


def _refuse(path: Path, line: int, text: str, expected: str) -> NoReturn:
    raise ListError(
        f"{path}, line {line}: found {text.strip()[:80]!r}, expected {expected}; correct the line "
        "or leave it out"
    )


def _plain(path: str) -> str:
    """Return the path without detours, so that two ways to write it are the same."""
    return os.path.normpath(path) if "./" in path or "//" in path else path


def _repeated(values: Sequence[int]) -> Iterable[tuple[int, int]]:
    """Yield places of equal values, the later ones in order, each with its first place."""
    numbers = np.array(values, np.int64)
    order = np.argsort(numbers, kind="stable")
    in_order = numbers[order]
    starts = np.searchsorted(in_order, in_order)  # of each run of equal values
    later = np.flatnonzero(starts != np.arange(len(order)))
    later = later[np.argsort(order[later], kind="stable")]
    return zip(order[starts[later]].tolist(), order[later].tolist(), strict=True)


def _names(path: Path, places: dict[str, int]) -> tuple[Sequence[int | str], npt.NDArray[np.int32]]:
    """Return the sorted names of the labels, and the place among them of each in `places`."""
    matches = [_NUMBER.fullmatch(text) for text in places]
    values: list[int | str] = [int(match[1]) for match in matches if match is not None]
    if len(values) < len(places):
        if values:
            text = next(t for t, match in zip(places, matches, strict=True) if match is None)
            logger.warning(
                "%s: %d labels are numbers, %d are not (%r is the first): all are taken as names",
                path, len(values), len(places) - len(values), text,
            )  # fmt: skip
        values = list(places)
    names = sorted(set(values))
    place_of = {name: place for place, name in enumerate(names)}
    return names, np.array([place_of[value] for value in values], np.int32)
