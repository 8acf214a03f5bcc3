"""Values of `results.json` as HTML, each with its place there: the page shows nothing else."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from eval.protocols.bootstrap import BY_PAIR
from eval.report.markup import Content, Html, join, tag


@dataclass(frozen=True)
class Node:
    """A value of `results.json` and where it stands, as a JSON pointer (RFC 6901)."""

    value: Any
    pointer: str = ""

    def __getitem__(self, key: str | int) -> "Node":
        """Return what stands below."""
        step = str(key).replace("~", "~0").replace("/", "~1")
        return Node(self.value[key], f"{self.pointer}/{step}")

    def __iter__(self) -> Iterator["Node"]:
        """Return the items of a list, or the values of a dictionary."""
        keys = self.value if isinstance(self.value, dict) else range(len(self.value))
        return (self[key] for key in keys)

    @property
    def known(self) -> bool:
        """Whether there is a value."""
        return self.value is not None


def fixed(value: float) -> str:
    """Return a rate, a cosine or a distance."""
    return f"{value:.4f}"


def short(value: float) -> str:
    """Return a number of any size with three digits, as 0.0123 or 1.2e-5."""
    return f"{value:.3g}".replace("e-0", "e-").replace("e+0", "e").replace("e+", "e")


def number(node: Node, form: str = "fixed", *, unit: float = 1, unknown: str = "–") -> Html:
    """Return a number: `fixed`, `short`, `signed`, `exact` or a `count`; or `unknown`.

    `unit` is what the number is divided by, as 10^9 for gigabytes.
    """
    if not node.known:
        return tag("data", unknown, value="", data_figure=node.pointer)
    value = node.value / unit if unit != 1 else node.value
    found = {
        "fixed": fixed,
        "short": short,
        "count": "{:,}".format,
        "signed": "{:+.4f}".format,
        "exact": "{:g}".format,
    }[form](value)
    return tag(
        "data",
        found,
        value=node.value,
        data_figure=node.pointer,
        data_unit=None if unit == 1 else f"{unit:g}",
    )


def text(node: Node, *, code: bool = False) -> Html:
    """Return words, such as a reason; names of files as code."""
    found = "–" if not node.known else str(node.value)
    return tag("code" if code else "span", found, data_figure=node.pointer)


def limits(node: Node, form: str = "fixed") -> Html:
    """Return an interval of two numbers."""
    if not node.known:
        return number(node)
    return join(number(node[0], form), " to ", number(node[1], form))


def bootstrap(node: Node) -> Content:
    """Return a bootstrap interval, or why there is none."""
    if not node.known:
        return None
    if not node["interval95"].known:
        return text(node["reason"])
    narrow = tag("em", " too narrow") if node["method"].value == BY_PAIR else None
    return join(limits(node["interval95"]), narrow)
