"""The page: one HTML file that needs no other, no network and no script."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from eval.report.faces import Thumbnails, hardest, quality, thumbnails
from eval.report.figures import Node
from eval.report.groups import groups
from eval.report.head import cost, definitions, how, summary
from eval.report.identification import identification
from eval.report.judged import Judged
from eval.report.markup import Html, join, tag
from eval.report.transfer import calibration, comparisons
from eval.report.verification import verification

STYLE: Final = Path(__file__).with_name("page.css")
MOST_BYTES: Final = 5_000_000
SIZES: Final = (96, 64, 40)  # of pictures, in pixels


def render(results: Mapping[str, Any], images: Mapping[tuple[str, int], bytes]) -> str:
    """Return the page of what `Results.to_json` gives, with the faces that are there.

    `images` are encoded, by set and number (`faces_to_show`). Everything else on the page stands in
    `results`, and every figure says where: its `data-figure` is a JSON pointer. Text of names and
    paths is escaped. Pictures have the largest of `SIZES` that keeps the page below `MOST_BYTES`;
    where none does, the page says in the place of each that it is not there.
    """
    for size in SIZES:
        page = _document(Node(results), thumbnails(images, size))
        if len(page.encode()) < MOST_BYTES:
            return page
    return _document(Node(results), {})


def _document(root: Node, pictures: Thumbnails) -> str:
    judged = _judged(root)
    parts = [
        ("figures", "Main figures", summary(judged)),
        ("how", "How the figures came about", how(root)),
        *((item.anchor, item.title, _section(item, pictures)) for item in judged),
        ("calibration", "Calibration", calibration(root)),
        ("comparison", "Comparison of models", comparisons(root)),
        ("cost", "Cost", cost(root)),
        ("words", "What the words mean", definitions(root)),
    ]
    sections = [(anchor, title, part) for anchor, title, part in parts if part is not None]
    names = ", ".join(model["name"].value for model in root["models"])
    title = f"Face recognition benchmark: {names}"
    links = (tag("li", tag("a", name, href=f"#{anchor}")) for anchor, name, _ in sections)
    body = tag(
        "body",
        tag("a", "Skip to the figures", href="#figures", class_="skip"),
        tag("header", tag("h1", title), tag("p", root["run"]["date"].value, class_="note")),
        tag("nav", tag("ul", *links), aria_label="Parts of the page"),
        tag("main", *(part(*section) for section in sections)),
    )
    return "<!DOCTYPE html>\n" + tag("html", head(title), body, lang="en") + "\n"


def head(title: str) -> Html:
    """Return the head of a page that loads nothing, with the style of all pages."""
    return tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        # Whatever a name tries, a browser loads nothing.
        tag("meta", http_equiv="Content-Security-Policy",
            content="default-src 'none'; img-src data:; style-src 'unsafe-inline'"),
        tag("title", title),
        tag("link", rel="icon", href="data:,"),
        tag("style", Html(STYLE.read_text(encoding="utf-8"))),
    )  # fmt: skip


def part(anchor: str, title: str, content: Html) -> Html:
    """Return a part of a page, to which `#anchor` leads."""
    return tag("section", tag("h2", title, id=f"{anchor}-title"), content, id=anchor,
               aria_labelledby=f"{anchor}-title")  # fmt: skip


def _judged(root: Node) -> list[Judged]:
    """Return the results of all models, set by set."""
    styles = {model["name"].value: number for number, model in enumerate(root["models"])}
    found: dict[tuple[str, ...], list[Node]] = {}
    for one in root["sets"]:
        key = (one["set"].value, one["protocol"].value, one["settings"].value.get("mode", ""))
        found.setdefault(key, []).append(one)
    return [Judged(f"set-{number}", ones, styles) for number, ones in enumerate(found.values(), 1)]


def _section(item: Judged, pictures: Thumbnails) -> Html:
    parts: Sequence[Html | None] = (
        verification(item),
        identification(item),
        groups(item),
        quality(item, pictures),
        hardest(item, pictures),
    )
    return join(item.head(), *parts)
