"""`report.html`: the faces of the findings, next to those of the identities they belong to."""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from data.cleaning.decide import UNREADABLE
from data.cleaning.groups import Groups
from data.datasets.sources import ImageSource
from data.files import atomic_write, writing
from data.records.locations import short_names, shown
from eval.report.faces import Thumbnails, thumbnails
from eval.report.markup import Html, facts, join, table, tag
from eval.report.page import MOST_BYTES, head, part
from scripts.cleaning.job import Inputs, Outcome
from scripts.cleaning.report import TITLES, counts

Key = tuple[str, int]  # which source, empty for the data, and the number of the image

ADVICE: Final = {
    "swapped": "Each is nearer to another identity than to its own, and near enough to be of it.",
    "outlier": "Each is far from its own identity, and of nobody whom the data has.",
    "same": "Join the labels only if you see one person. They are joined with --fix same.",
    "merged": "Divide the label only if you see two people. It is divided with --fix merged.",
    "duplicates": "One image, perhaps encoded anew. The one whose label is not in doubt is kept.",
    "leaked": "Nobody should be tested on people he trained on: these labels are left out.",
}
MOST: Final = (24, 12, 6)  # findings of a kind; the first number whose page is small enough
FACES: Final = 4  # of an identity
PIXELS: Final = 72


@dataclass(frozen=True)
class Finding:
    """A finding on the page."""

    title: str
    numbers: str
    rows: Sequence[tuple[str, list[Key]]]  # what faces are, and which


def write_page(inputs: Inputs, outcome: Outcome, options: argparse.Namespace) -> None:
    """Write the page into the folder of the report; the surest findings of each kind are shown.

    Some of those near the threshold are shown as well: that is where errors are.
    """
    shown = _Shown(inputs, outcome)
    for most in MOST:
        found = {kind: shown.of_kind(kind, most) for kind in TITLES}
        page = _document(found, inputs, outcome, options).encode("utf-8", "replace")
        if len(page) < MOST_BYTES:
            break
    path = options.report / "report.html"
    with writing(path), atomic_write(path) as file:
        file.write(page)


class _Shown:
    """Makes findings to be shown."""

    def __init__(self, inputs: Inputs, outcome: Outcome) -> None:
        self._found = outcome.findings
        self._names = inputs.names
        places = sorted({place for place, _ in self._names})
        self._short = dict(zip(places, short_names(places), strict=True))
        self._labels = inputs.dataset.labels.astype(np.int64)
        readable = np.array([reason != UNREADABLE for reason in outcome.plan.reasons])
        self._groups = Groups(np.where(readable, self._labels, -1), inputs.dataset.num_classes)

    def of_kind(self, kind: str, most: int) -> list[Finding]:
        """Return at most so many findings of a kind."""
        makers: dict[str, Any] = {
            "swapped": self._wrong(True),
            "outlier": self._wrong(False),
            "same": self._same(),
            "merged": self._merged(),
            "duplicates": self._copies(),
            "leaked": self._leaked(),
        }
        return _some(list(makers[kind]), most)

    def _name(self, label: int) -> str:
        place, name = self._names[label]
        return f"label {name} of {self._short[place]}" if len(self._short) > 1 else f"label {name}"

    def _faces(self, label: int, without: Sequence[int] = ()) -> list[Key]:
        images = self._groups.members(label)
        return [("", image) for image in images[~np.isin(images, without)].tolist()[:FACES]]

    def _wrong(self, known: bool) -> Iterator[Finding]:
        wrong = self._found.wrong
        for row in np.flatnonzero(wrong.known == known).tolist():
            image, other = int(wrong.images[row]), int(wrong.labels[row])
            own = int(self._labels[image])
            yield Finding(
                f"image {image}",
                f"cosine {wrong.own[row]:.2f} with its own, {wrong.other[row]:.2f} with the other",
                [
                    ("the image", [("", image)]),
                    (self._name(own), self._faces(own, [image])),
                    (f"nearest: {self._name(other)}", self._faces(other)),
                ],
            )

    def _same(self) -> Iterator[Finding]:
        same = self._found.same
        for row, (one, other) in enumerate(same.labels.tolist()):
            yield Finding(
                f"{self._name(one)} and {self._name(other)}",
                f"cosine {same.cosines[row]:.2f}, {same.scores[row]:.2f} beyond the usual",
                [(self._name(label), self._faces(label)) for label in (one, other)],
            )

    def _merged(self) -> Iterator[Finding]:
        merged = self._found.merged
        for row, label in enumerate(merged.labels.tolist()):
            second = merged.second[row].tolist()
            yield Finding(
                self._name(label),
                f"cosine {merged.between[row]:.2f} between, {merged.within[row]:.2f} within",
                [
                    ("the larger half", self._faces(label, second)),
                    ("the other half", [("", image) for image in second[:FACES]]),
                ],
            )

    def _copies(self) -> Iterator[Finding]:
        copies = self._found.duplicates
        for row, (image, first) in enumerate(
            zip(copies.images.tolist(), copies.first.tolist(), strict=True)
        ):
            yield Finding(
                f"images {first} and {image}",
                f"cosine {copies.cosines[row]:.3f}, {copies.bits[row]} of 64 bits differ",
                [(self._name(int(self._labels[i])), [("", i)]) for i in (first, image)],
            )

    def _leaked(self) -> Iterator[Finding]:
        for leak in self._found.leaks:
            for row, label in enumerate(leak.labels.tolist()):
                image = int(leak.images[row])
                yield Finding(
                    f"{self._name(label)} and image {image} of {leak.name}",
                    f"cosine {leak.cosines[row]:.2f}, {leak.scores[row]:.2f} beyond the usual",
                    [
                        (f"image {image} of {leak.name}", [(leak.name, image)]),
                        (self._name(label), self._faces(label)),
                    ],
                )


def _some(found: list[Finding], most: int) -> list[Finding]:
    """Return the first and the last ones, which are the surest and those near the threshold."""
    if len(found) <= most:
        return found
    return found[: most // 2] + found[len(found) - (most - most // 2) :]


def _document(
    found: dict[str, list[Finding]], inputs: Inputs, outcome: Outcome, options: argparse.Namespace
) -> str:
    sources: dict[str, ImageSource] = {"": inputs.dataset, **dict(inputs.sets)}
    keys = {k for group in found.values() for one in group for _, row in one.rows for k in row}
    images = {}
    for key in sorted(keys):
        images[key] = bytes(sources[key[0]].encoded(key[1]))
    pictures = thumbnails(images, PIXELS)
    totals = counts(outcome)
    title = f"What is wrong with {' and '.join(map(shown, options.data))}"
    parts = [("overview", "Overview", _overview(inputs, outcome, options))] + [
        (kind, TITLES[kind].capitalize(), _kind(kind, found[kind], total, pictures))
        for kind, total in totals.items()
    ]
    links = (tag("li", tag("a", name, href=f"#{anchor}")) for anchor, name, _ in parts)
    body = tag(
        "body",
        tag("header", tag("h1", title)),
        tag("nav", tag("ul", *links), aria_label="Parts of the page"),
        tag("main", *(part(*one) for one in parts)),
    )
    return "<!DOCTYPE html>\n" + tag("html", head(title), body, lang="en") + "\n"


def _overview(inputs: Inputs, outcome: Outcome, options: argparse.Namespace) -> Html:
    plan, cuts = outcome.plan, outcome.findings.cuts
    rows = []
    for kind, count in counts(outcome).items():
        cut = cuts.get(kind)
        figures = [None] * 3 if cut is None else [cut.threshold, cut.precision, cut.recall]
        numbers = ["–" if figure is None else f"{figure:.3f}" for figure in figures]
        fixed = "yes" if kind in options.fix else "no"
        rows.append([TITLES[kind].capitalize(), f"{count:,}", *numbers, fixed])
    heading = ["What", "Found", "Score from", "Precision", "Recall", "Acted on"]
    return join(
        facts(
            [
                ("Images", f"{len(inputs.dataset):,}"),
                ("Labels", f"{inputs.dataset.num_classes:,}"),
                ("Cannot be read", f"{outcome.bad:,}"),
                ("Images after", f"{int((plan.labels >= 0).sum()):,}"),
                ("Labels after", f"{plan.num_labels:,}"),
            ]
        ),
        table("Findings", heading, rows),
        tag("p", "Precision and recall are estimates, from faults planted among the data's own "
            "embeddings. Everything found is in report.json, what becomes of each image in "
            "images.csv.", class_="note"),
    )  # fmt: skip


def _kind(kind: str, found: list[Finding], total: int, pictures: Thumbnails) -> Html:
    if not found:
        return tag("p", "None.", class_="note")
    note = ADVICE[kind]
    if len(found) < total:
        note += f" The {len(found)} shown of {total:,} are the first and the last ones."
    return join(
        tag("p", note, class_="note"),
        *(
            tag(
                "article",
                tag("h3", one.title),
                tag("p", one.numbers, class_="note"),
                tag(
                    "div", *(_row(name, keys, pictures) for name, keys in one.rows), class_="groups"
                ),
            )
            for one in found
        ),
    )


def _row(name: str, keys: list[Key], pictures: Thumbnails) -> Html:
    faces = [
        tag("img", src=pictures[key], alt=f"image {key[1]}", width=PIXELS, height=PIXELS)
        for key in keys
    ] or [tag("span", "no image left", class_="note")]
    return tag("figure", tag("div", *faces, class_="row"), tag("figcaption", name))
