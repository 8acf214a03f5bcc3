"""Charts of lines and areas as inline SVG: no script, no picture to load, sharp in print.

Coordinates of the drawing are those of its view box, which the page stretches. Every series has a
colour that colour-blind people tell apart (Okabe and Ito, 2008) and a pattern of dashes.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from eval.report.figures import short
from eval.report.markup import Html, tag

Points = Sequence[tuple[float, float]]

WIDTH, HEIGHT = 420, 300
LEFT, RIGHT, TOP, BOTTOM = 74, 396, 16, 252  # the sides of the plot
COLOURS, DASHES = 7, 4  # in page.css; 28 series differ in one of them or both
HOVER: Final = 40  # points of a series that tell their values
NARROWEST: Final = 1e-4  # of an axis: labels have at most five decimals
DECADES: Final = 6  # labelled powers of ten
SUPERSCRIPT: Final = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True)
class Axis:
    """The range of one direction, and its name with the unit."""

    name: str
    low: float
    high: float
    log: bool = False

    def part(self, value: float) -> float:
        """Return where a value is, 0 at the low end and 1 at the high one."""
        scale: Callable[[float], float] = math.log10 if self.log else float
        at, low, high = map(scale, (value, self.low, self.high))
        return (at - low) / (high - low)

    def holds(self, value: float) -> bool:
        """Whether a value can be drawn: a logarithm of zero cannot."""
        return not self.log or value > 0

    def ticks(self) -> list[tuple[float, str]]:
        """Return values with their labels."""
        if self.log:
            first, last = (round(math.log10(one)) for one in (self.low, self.high))
            every = -(-(last - first) // DECADES)
            powers = range(first, last + 1, every)
            return [(10.0**power, f"10{str(power).translate(SUPERSCRIPT)}") for power in powers]
        length = self.high - self.low
        step = _step(length) if length > 0.049 else 2 * _step(length)  # long labels need room
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        digits = max(0, -math.floor(math.log10(step) + 1e-9))
        many = self.high >= 1e6
        return [
            (k * step, short(k * step) if many else f"{k * step:.{digits}f}")
            for k in range(first, last + 1)
        ]


def _step(length: float) -> float:
    """Return 1, 2 or 5 times a power of ten, of which `length` holds about five."""
    power = 10.0 ** math.floor(math.log10(length / 5))
    return next(power * k for k in (1, 2, 5, 10) if power * k >= length / 6 * (1 - 1e-9))


def log_axis(name: str, values: Iterable[float]) -> Axis:
    """Return the powers of ten around the values that are above zero."""
    powers = [math.log10(value) for value in values if value > 0] or [-1.0, 0.0]
    low, high = math.floor(min(powers) + 1e-9), math.ceil(max(powers) - 1e-9)
    return Axis(name, 10.0**low, 10.0 ** max(high, low + 1), log=True)


def linear_axis(name: str, values: Iterable[float]) -> Axis:
    """Return the round numbers around the values."""
    found = list(values) or [0.0, 1.0]
    low, high = min(found), max(found)
    if high - low < NARROWEST:
        low, high = (low + high - NARROWEST) / 2, (low + high + NARROWEST) / 2
    step = _step(high - low)
    return Axis(name, math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step)


def rate_axis(name: str, values: Iterable[float]) -> Axis:
    """Return a round number below the rates, and 1."""
    low = min([*values, 0.95])
    return Axis(name, linear_axis(name, [low, 1.0]).low, 1.0)


@dataclass(frozen=True)
class Series:
    """A line, and what its points tell; `steps` holds a value up to the next point."""

    name: str
    style: int
    points: Points
    labels: Sequence[str] = ()  # of each point
    steps: bool = False
    area: bool = False  # filled down to the axis
    dots: bool = False
    band: Sequence[tuple[float, float, float]] = ()  # x, low and high


@dataclass(frozen=True)
class Mark:
    """A value of x to show, with its name."""

    x: float
    name: str


def line_chart(
    title: str,
    x: Axis,
    y: Axis,
    series: Sequence[Series],
    marks: Sequence[Mark] = (),
    note: str = "",
) -> Html:
    """Return a figure with title, legend and note, without the points that no axis can hold."""
    frame = _Frame(x, y)
    drawing = tag(
        "svg",
        *frame.grid(),
        *(frame.band(one) for one in series if one.band),
        *(frame.line(one) for one in series),
        *frame.marks(marks),
        frame.empty(series),
        *(frame.dots(one) for one in series),
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        role="img",
        aria_label=f"{title}: {y.name} against {x.name}",
    )
    legend = tag("ul", *(_legend(one) for one in series), class_="legend")
    return tag(
        "figure",
        tag("figcaption", title),
        drawing,
        legend if len(series) > 1 or series[0].name else None,
        tag("p", note, class_="note") if note else None,
    )


def _legend(one: Series) -> Html:
    sample = tag("path", d="M0 6H28", class_="line")
    swatch = tag("svg", sample, viewBox="0 0 28 12", aria_hidden="true", class_="swatch")
    return tag("li", swatch, one.name, class_=_style(one.style))


def _style(number: int) -> str:
    return f"s{number % COLOURS} d{number % DASHES}"


class _Frame:
    """Turns values into coordinates."""

    def __init__(self, x: Axis, y: Axis) -> None:
        self.x, self.y = x, y

    def place(self, x: float, y: float) -> tuple[float, float]:
        across, up = (min(max(part, 0.0), 1.0) for part in (self.x.part(x), self.y.part(y)))
        return round(LEFT + across * (RIGHT - LEFT), 1), round(BOTTOM - up * (BOTTOM - TOP), 1)

    def holds(self, x: float, y: float) -> bool:
        return self.x.holds(x) and self.y.holds(y)

    def grid(self) -> list[Html]:
        found = []
        for value, label in self.x.ticks():
            at, _ = self.place(value, self.y.high)
            found.append(tag("line", x1=at, x2=at, y1=TOP, y2=BOTTOM, class_="grid"))
            found.append(tag("text", label, x=at, y=BOTTOM + 17, text_anchor="middle"))
        for value, label in self.y.ticks():
            _, at = self.place(self.x.high, value)
            found.append(tag("line", x1=LEFT, x2=RIGHT, y1=at, y2=at, class_="grid"))
            found.append(tag("text", label, x=LEFT - 7, y=at + 4, text_anchor="end"))
        middle, height = (LEFT + RIGHT) / 2, (TOP + BOTTOM) / 2
        found.append(
            tag("text", self.x.name, x=middle, y=HEIGHT - 10, text_anchor="middle", class_="name")
        )
        turned = tag(
            "text", self.y.name, text_anchor="middle", class_="name",
            transform=f"translate(14 {height}) rotate(-90)",
        )  # fmt: skip
        return [*found, turned]

    def line(self, one: Series) -> Html:
        path, at = [], None
        for x, y in one.points:
            if not self.holds(x, y):
                continue
            here = self.place(x, y)
            if at is None:
                path.append(f"M{here[0]:g} {here[1]:g}")
            elif here != at:
                if one.steps:
                    path.append(f"H{here[0]:g}V{here[1]:g}")
                else:
                    path.append(f"L{here[0]:g} {here[1]:g}")
            at = here
        outline = "".join(path)
        area = None
        if one.area and at is not None:
            area = tag("path", d=f"{outline}V{BOTTOM}H{path[0][1:].split()[0]}Z", class_="area")
        return tag("g", area, tag("path", d=outline, class_="line"), class_=_style(one.style))

    def band(self, one: Series) -> Html:
        known = [row for row in one.band if self.x.holds(row[0])]
        floor = self.y.low  # a limit of zero on a logarithmic axis reaches its end
        low = [self.place(x, max(low, floor)) for x, low, _ in known]
        high = [self.place(x, max(high, floor)) for x, _, high in reversed(known)]
        outline = "L".join(f"{x:g} {y:g}" for x, y in [*low, *high])
        return tag("g", tag("path", d=f"M{outline}Z", class_="band"), class_=_style(one.style))

    def dots(self, one: Series) -> Html:
        """Return circles that show themselves, and a point's values, under the pointer."""
        labelled = zip(one.points, one.labels, strict=False)
        known = [(point, label) for point, label in labelled if self.holds(*point)]
        step = max(1, -(-len(known) // HOVER))
        found = []
        for point, label in [*known[:-1:step], *known[-1:]]:
            x, y = self.place(*point)
            found.append(tag("circle", tag("title", label), cx=x, cy=y))
        return tag("g", *found, class_=f"{_style(one.style)} {'dots' if one.dots else 'hover'}")

    def empty(self, series: Sequence[Series]) -> Html | None:
        """Return words in place of lines, where rates of zero leave nothing for a logarithm."""
        if any(self.holds(*point) for one in series for point in one.points):
            return None
        middle, height = (LEFT + RIGHT) / 2, (TOP + BOTTOM) / 2
        words = "no point: one of the rates is always 0"
        return tag("text", words, x=middle, y=height, text_anchor="middle", class_="marked")

    def marks(self, marks: Sequence[Mark]) -> list[Html]:
        """Return upright lines; each name has a line of its own, so that near ones do not meet."""
        found = []
        for row, mark in enumerate(marks):
            x, _ = self.place(mark.x, self.y.high)
            left = x > (LEFT + RIGHT) / 2
            found.append(tag("line", x1=x, x2=x, y1=TOP, y2=BOTTOM, class_="mark"))
            found.append(
                tag("text", mark.name, x=x - 4 if left else x + 4, y=TOP + 12 + 14 * row,
                    text_anchor="end" if left else "start", class_="marked")
            )  # fmt: skip
        return found


def bars(edges: Sequence[float], heights: Sequence[float]) -> Points:
    """Return the outline of bars between `edges`, for a series with `steps`."""
    return [(edges[0], 0.0), *zip(edges, heights, strict=False), (edges[-1], 0.0)]


def columns(*figures: Html) -> Html:
    """Return figures side by side, as many as fit."""
    return tag("div", *figures, class_="figures")
