"""HTML by functions: text is escaped unless it is `Html` already, so no name can act as a tag."""

from collections.abc import Iterable, Sequence
from html import escape
from typing import Final

VOID: Final = ("img", "line", "link", "meta", "path")  # no content, no end tag


class Html(str):
    """Text that is HTML; `+` and `join` of others give plain text again, which is escaped."""

    __slots__ = ()


Content = str | None  # None adds nothing


def tag(name: str, /, *children: Content, **attributes: str | float | None) -> Html:
    """Return an element; `class_` sets `class`, `data_x` sets `data-x`, None leaves one out."""
    found = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in VOID:
        return Html(f"<{name}{found}/>")
    return Html(f"<{name}{found}>{join(*children)}</{name}>")


def join(*children: Content) -> Html:
    """Return the children one after the other."""
    return Html(
        "".join(
            child if isinstance(child, Html) else escape(child, quote=False)
            for child in children
            if child is not None
        )
    )


def table(caption: str, header: Sequence[str], rows: Iterable[Sequence[Content]]) -> Html:
    """Return a table that scrolls by itself where it is too wide; each row has a heading first.

    A region that scrolls takes the keyboard's focus, or its end cannot be reached without a mouse.
    """
    head = tag("tr", *(tag("th", name, scope="col") for name in header))
    body = [
        tag("tr", tag("th", row[0], scope="row"), *(tag("td", cell) for cell in row[1:]))
        for row in rows
    ]
    found = tag(
        "table", tag("caption", tag("span", caption)), tag("thead", head), tag("tbody", *body)
    )
    return tag("div", found, class_="scroll", tabindex=0, role="region", aria_label=caption)


def facts(rows: Iterable[tuple[str, Content]]) -> Html:
    """Return names with their values, as a list of definitions."""
    return tag("dl", *(tag("div", tag("dt", name), tag("dd", value)) for name, value in rows))
