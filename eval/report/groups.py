"""Error rates of groups of people, at one threshold for all and at one of their own."""

import math
from collections.abc import Iterator
from typing import Final

from eval.report.chart import columns, line_chart
from eval.report.figures import Node, limits, number, text
from eval.report.judged import Judged, Row
from eval.report.markup import Html, join, table, tag
from eval.report.verification import det_axes, det_series

ENOUGH: Final = 10  # expected false accepts, below which a cell of the heat map says nothing
# Light to dark, so that it reads in grey as well; its ends are colours of single-hue maps.
LIGHTEST, DARKEST = (237, 244, 250), (3, 67, 122)


def groups(item: Judged) -> Html | None:
    """Return the part of a section about groups; None if it has none."""
    if not item.having("groups"):
        return None
    rates = item.table(
        "Groups at one threshold for all",
        ["Group", "Genuine pairs", "Impostor pairs", "False rejects", "FNMR",
         "95% interval (Wilson)", "False accepts", "FMR", "95% interval (Wilson)"],
        _rates,
        "groups",
    )  # fmt: skip
    own = item.table(
        "Each group at its own threshold",
        ["Group", "FAR at most", "T (cosine)", "TAR", "95% interval (Wilson)", "Achieved FAR"],
        _own,
        "group_curves",
    )
    known = item.having("groups")
    return join(
        tag("h3", "Groups"),
        *(_threshold(item, one, found) for one in known for found in one["groups"]),
        rates,
        own,
        *(_heat_map(item, one, found) for one in known for found in one["groups"]),
        item.table(
            "How the groups differ",
            ["Rate", "Max", "Min", "Max / min", "Max / geometric mean", "Gini"],
            _spreads,
            "groups",
        ),
        item.table(
            "Groups in one figure", ["GARBE (0 is fair)", "FDR (1 is fair)", "Inequity (1 is fair)",
                                     "α, the weight of FMR"], _summary, "groups",
        ),
        columns(*(_curves(item, one) for one in item.having("group_curves"))),
    )  # fmt: skip


def _threshold(item: Judged, one: Node, found: Node) -> Html:
    start = f"{item.name(one)}: " if item.several else ""
    reason = (
        join(" There are no figures: ", text(found["reason"]), ".")
        if found["reason"].known
        else None
    )
    return tag(
        "p", start, "one threshold, T ", number(found["threshold"]), " (cosine), at FAR ",
        number(found["far"], "short"), " over the impostor pairs of all groups.", reason,
        class_="note",
    )  # fmt: skip


def _rates(one: Node) -> Iterator[Row]:
    for found in one["groups"]:
        for group in found["groups"]:
            yield [
                text(group["group"]),
                number(group["genuine"], "count"),
                number(group["impostor"], "count"),
                number(group["false_rejects"], "count"),
                number(group["fnmr"]),
                limits(group["fnmr_wilson"]),
                number(group["false_accepts"], "count"),
                number(group["fmr"], "short"),
                limits(group["fmr_wilson"], "short"),
            ]


def _own(one: Node) -> Iterator[Row]:
    for curve in one["group_curves"]:
        point = curve["own"]
        yield [
            text(curve["group"]),
            number(point["far"], "short"),
            number(point["threshold"]),
            number(point["tar"]),
            text(point["reason"]) if point["reason"].known else limits(point["tar_wilson95"]),
            number(point["far_achieved"], "short"),
        ]


def _spreads(one: Node) -> Iterator[Row]:
    for found in one["groups"]:
        if found["summary"].known:
            for name, key in (("FMR", "fmr"), ("FNMR", "fnmr")):
                spread = found["summary"][key]
                keys = ("max", "min", "max_over_min", "max_over_geomean", "gini")
                yield [name, *(number(spread[key], "short") for key in keys)]


def _summary(one: Node) -> Iterator[Row]:
    for found in one["groups"]:
        if found["summary"].known:
            keys = ("garbe", "fdr", "inequity", "alpha")
            yield [number(found["summary"][key], "short") for key in keys]


def _heat_map(item: Judged, one: Node, found: Node) -> Html | None:
    """Return FMR between every two groups, as a table whose colours are the logarithm of FMR."""
    matrix = found["fmr_matrix"]
    if not matrix.value:
        return None
    names = [group["group"] for group in found["groups"].value]
    needed = ENOUGH / found["far"].value
    shown = [
        cell["fmr"] for cell in matrix.value.values() if cell["pairs"] >= needed and cell["fmr"]
    ]
    ends = (math.log10(min(shown)), math.log10(max(shown))) if shown else (0.0, 0.0)

    def cell(a: str, b: str) -> Html:
        key = f"{a}|{b}" if f"{a}|{b}" in matrix.value else f"{b}|{a}"
        if key not in matrix.value:
            return tag("span", "–", class_="cell few")
        rate = matrix[key]
        told = (
            f"{a}, {b}: {rate['false_accepts'].value:,} of {rate['pairs'].value:,} pairs accepted"
        )
        few = rate["pairs"].value < needed
        colour = None if few else _colour(rate["fmr"].value, ends)
        return tag(
            "span", number(rate["fmr"], "short"), title=told + (", too few pairs" if few else ""),
            class_="cell few" if few else "cell", style=colour,
        )  # fmt: skip

    of = f", {item.name(one)}" if item.several else ""
    rows = [[a, *(cell(a, b) for b in names)] for a in names]
    note = (
        f"Darker: a higher FMR, by its logarithm. Grey: fewer than {needed:,.0f} pairs, "
        f"{ENOUGH} times 1/FAR, too few to judge."
    )
    found_table = table(f"FMR between groups{of}, at the threshold of all", ["Group", *names], rows)
    return tag("div", found_table, tag("p", note, class_="note"), class_="heat")


def _colour(rate: float, ends: tuple[float, float]) -> str:
    low, high = ends
    part = 0.0
    if rate > 0 and high > low:
        part = 0.08 + 0.92 * (math.log10(rate) - low) / (high - low)
    mixed = [round(a + part * (b - a)) for a, b in zip(LIGHTEST, DARKEST, strict=True)]
    return f"background:rgb({','.join(map(str, mixed))});color:{'#fff' if part > 0.68 else '#111'}"


def _curves(item: Judged, one: Node) -> Html:
    curves = list(one["group_curves"])
    series = [
        det_series(curve["det"], str(curve["group"].value), style)
        for style, curve in enumerate(curves)
    ]
    of = f" of {item.name(one)}" if item.several else ""
    fmr, fnmr = det_axes([curve["det"] for curve in curves])
    note = f"FMR and FNMR are those within a group, down to 1/pairs, for {len(curves)} groups."
    return line_chart(f"DET by group{of}", fmr, fnmr, series, note=note)
