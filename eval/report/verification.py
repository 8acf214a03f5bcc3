"""The 1:1 figures: operating points, curves, histograms and ten folds."""

from collections.abc import Iterator
from itertools import pairwise
from typing import Final

from eval.report.chart import (
    Axis,
    Mark,
    Points,
    Series,
    bars,
    columns,
    line_chart,
    linear_axis,
    log_axis,
    rate_axis,
)
from eval.report.figures import Node, bootstrap, fixed, number, short, text
from eval.report.judged import Judged, Row
from eval.report.markup import Html, join, tag

MARKED_FARS: Final = (1e-3, 1e-4)  # in the histograms
FMR, FNMR = "False match rate (FMR)", "False non-match rate (FNMR)"
THRESHOLD = "Threshold T (cosine)"


def verification(item: Judged) -> Html | None:
    """Return the 1:1 part of a section; None if it has none."""
    if not item.having("verification"):
        return None
    return join(
        item.table(
            "TAR at FAR",
            ["FAR at most", "TAR", "95% interval", "T (cosine)", "T (squared distance)",
             "False accepts", "Achieved FAR", "Published TPR"],
            _rows,
            "verification",
        ),
        item.table(
            "At no false accept, at equal errors, and over all thresholds",
            ["TAR at no false accept", "T (cosine)", "FAR below, at 95%", "EER",
             "Rates where they cross", "T at EER (cosine)", "AUC", "d′"],
            _overall,
            "verification",
        ),
        item.notes(
            (one, "Intervals: bootstrap ", one["verification"]["interval_method"])
            for one in item.having("verification")
        ),
        columns(*_curves(item), *(_histogram(item, one) for one in item.having("verification"))),
        _ten_folds(item),
    )  # fmt: skip


def _rows(one: Node) -> Iterator[Row]:
    for row in one["verification"]["rows"]:
        point = row["point"]
        few = tag("em", " few errors") if row["few_errors"].value else None
        published = join(
            number(row["published_tpr"]), " at FPR ", number(row["published_fpr"], "short")
        )
        yield [
            number(point["far"], "short"),
            number(point["tar"]),
            text(point["reason"]) if point["reason"].known else bootstrap(row["interval"]),
            number(point["threshold"]),
            number(row["threshold_distance"]),
            join(number(point["false_accepts"], "count"), few),
            number(point["far_achieved"], "short"),
            published,
        ]


def _overall(one: Node) -> Iterator[Row]:
    figures = one["verification"]
    zero, eer = figures["at_zero_far"], figures["eer"]
    yield [
        number(zero["tar"]),
        number(zero["threshold"]),
        number(zero["far_upper_95"], "short"),
        number(eer["eer"]),
        join(number(eer["low"]), " to ", number(eer["high"])),
        number(eer["threshold"]),
        number(figures["auc"]),
        number(figures["d_prime"]),
    ]


def det_series(det: Node, name: str, style: int) -> Series:
    """Return FNMR against FMR."""
    values = det.value
    return Series(
        name,
        style,
        list(zip(values["fmr"], values["fnmr"], strict=True)),
        labels=[
            f"{f'{name}: ' if name else ''}T {fixed(t)}, FMR {short(fmr)}, FNMR {short(fnmr)}"
            for t, fmr, fnmr in zip(values["threshold"], values["fmr"], values["fnmr"], strict=True)
        ],
    )


def det_axes(dets: list[Node]) -> tuple[Axis, Axis]:
    """Return logarithmic axes for FMR and FNMR; what cannot be measured is not on them."""
    rates = {key: [value for det in dets for value in det[key].value] for key in ("fmr", "fnmr")}
    return log_axis(FMR, rates["fmr"]), log_axis(FNMR, rates["fnmr"])


def _curves(item: Judged) -> Iterator[Html]:
    known = item.having("verification")
    dets = [one["verification"]["det"] for one in known]
    series = [
        det_series(det, item.name(one), item.style(one))
        for det, one in zip(dets, known, strict=True)
    ]
    bands = [
        [(row["far"], row["low"], row["high"]) for row in one["verification"]["band"].value]
        for one in known
    ]
    fmr, fnmr = det_axes(dets)
    scope = "every distinct score" if all(det["complete"].value for det in dets) else (
        "a spread of the scores that keeps single errors"
    )  # fmt: skip
    note = f"Points: {scope}; shaded: 95% interval. Nothing is drawn left of 1/impostors."
    missed = [[(far, 1 - high, 1 - low) for far, low, high in band] for band in bands]
    yield line_chart(
        "DET: the two errors against each other", fmr, fnmr, _with_bands(series, missed), note=note
    )
    hits = [
        Series(one.name, one.style, [(x, 1 - y) for x, y in one.points], one.labels)
        for one in series
    ]
    tar = rate_axis("TAR = 1 − FNMR", [y for one in hits for x, y in one.points if x > 0])
    far = Axis("False accept rate (FAR)", fmr.low, fmr.high, log=True)
    note = "The same points; shaded: 95% interval."
    yield line_chart("ROC", far, tar, _with_bands(hits, bands), note=note)
    cosine = linear_axis(THRESHOLD, [t for det in dets for t in det["threshold"].value])
    by_threshold = {
        key: [
            Series(one.name, one.style,
                   list(zip(det["threshold"].value, det[key].value, strict=True)),
                   one.labels, steps=True)
            for det, one in zip(dets, series, strict=True)
        ]
        for key in ("fmr", "fnmr")
    }  # fmt: skip
    yield line_chart("FMR at a threshold", cosine, fmr, by_threshold["fmr"])
    yield line_chart("FNMR at a threshold", cosine, Axis(FNMR, 0, 1), by_threshold["fnmr"])


def _with_bands(
    series: list[Series], bands: list[list[tuple[float, float, float]]]
) -> list[Series]:
    return [
        Series(one.name, one.style, one.points, one.labels, band=band)
        for one, band in zip(series, bands, strict=True)
    ]


def _histogram(item: Judged, one: Node) -> Html:
    figures = one["verification"].value
    edges = figures["histogram"]["edges"]
    series, heights = [], []
    for style, kind in enumerate(("impostor", "genuine")):
        counts = figures["histogram"][kind]
        outline, labels = density(edges, counts)
        heights += [y for _, y in outline]
        series.append(Series(kind, style, outline, labels, steps=True, area=True))
    marks = [
        Mark(row["point"]["threshold"], f"T at FAR {short(row['point']['far'])}")
        for row in figures["rows"]
        if row["point"]["far"] in MARKED_FARS and row["point"]["threshold"] is not None
    ]
    return line_chart(
        f"Scores{f' of {item.name(one)}' if item.several else ''}",
        linear_axis("Score (cosine)", edges),
        linear_axis("Density (per unit of cosine)", [0.0, 1.25 * max(heights)]),
        series,
        marks,
        note=f"{len(edges) - 1} equal bins from {fixed(edges[0])} to {fixed(edges[-1])}, "
        "the same for both kinds; each kind has an area of 1.",
    )


def density(edges: list[float], counts: list[int]) -> tuple[Points, list[str]]:
    """Return the outline of a histogram whose area is 1, and what its points tell."""
    total, spans = sum(counts), list(pairwise(edges))
    heights = [
        count / (total * (high - low)) for count, (low, high) in zip(counts, spans, strict=True)
    ]
    told = [f"{count:,} from {short(low)} to {short(high)}"
            for count, (low, high) in zip(counts, spans, strict=True)]  # fmt: skip
    return bars(edges, heights), ["", *told, ""]


def _ten_folds(item: Judged) -> Html | None:
    folds = item.table(
        "Fold by fold",
        ["Fold", *map(str, range(1, 11))],
        lambda one: (
            [name, *(number(fold) for fold in one["ten_fold"][key])]
            for name, key in (("Accuracy", "fold_accuracy"),
                              ("T (squared distance)", "fold_threshold_distance"))
        ),
        "ten_fold",
    )  # fmt: skip
    if folds is None:
        return None
    overall = item.table(
        "Accuracy over ten folds",
        ["Flip", "Accuracy ± std (published)", "± standard error", "Without flip", "T (cosine)",
         "T (squared distance)", "Mean norm"],
        _accuracy,
        "ten_fold",
    )  # fmt: skip
    return join(tag("h3", "Ten folds"), overall, folds)


def _accuracy(one: Node) -> Iterator[Row]:
    fold = one["ten_fold"]
    yield [
        "yes" if fold["flip"].value else "no",
        join(number(fold["accuracy"]), " ± ", number(fold["population_std"])),
        number(fold["standard_error"]),
        join(number(fold["accuracy_no_flip"]), " ± ", number(fold["population_std_no_flip"])),
        number(fold["threshold_cosine"]),
        number(fold["threshold_distance"]),
        number(fold["embedding_norm"]),
    ]
