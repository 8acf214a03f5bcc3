"""The main figures of `results.json` as text for a terminal."""

from collections.abc import Iterator, Sequence

from eval.protocols.bootstrap import BY_PAIR, BootstrapInterval
from eval.results import Results, SetResult

Row = list[str]


def table(results: Results) -> str:
    """Return the figures as aligned columns, the conservative reading first; then all warnings."""
    several = len(results.models) > 1
    blocks = [
        _ten_folds(results.sets, several),
        _rates(results.sets, several),
        _searches(results.sets, several),
        _identification(results.sets, several),
        _groups(results.sets, several),
        _calibration(results, several),
        _comparisons(results),
    ]
    texts = [aligned(rows) for rows in blocks if len(rows) > 1]
    warnings = [
        f"warning: {_name(one, several)}: {warning}"
        for one in results.sets
        for warning in one.warnings
    ]
    return "\n\n".join([*texts, *(["\n".join(warnings)] if warnings else [])])


def aligned(rows: Sequence[Row]) -> str:
    """Return rows as columns, two spaces apart."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def _name(one: SetResult, several: bool) -> str:
    parts = [one.set, *([one.settings["mode"]] if "mode" in one.settings else [])]
    return " ".join([*parts, *([f"[{one.model}]"] if several else [])])


def _ten_folds(sets: Sequence[SetResult], several: bool) -> list[Row]:
    rows = [["set", "pairs", "accuracy", "no flip", "cosine >", "distance <", "norm"]]
    for one in sets:
        if (fold := one.ten_fold) is not None and one.verification is not None:
            pairs = (one.counts.genuine or 0) + (one.counts.impostor or 0)
            rows.append(
                [
                    _name(one, several),
                    f"{pairs:,}",
                    f"{fold.accuracy:.4f} ± {fold.population_std:.4f}",
                    f"{fold.accuracy_no_flip:.4f} ± {fold.population_std_no_flip:.4f}",
                    f"{fold.threshold_cosine:.4f}",
                    f"{fold.threshold_distance:.3f}",
                    f"{fold.embedding_norm:.4f}",
                ]
            )
    return rows


def _rates(sets: Sequence[SetResult], several: bool) -> list[Row]:
    rows = [["set", "FAR", "TAR", "95% interval", "cosine >", "false accepts", "published TPR"]]
    for one in sets:
        if one.verification is None:
            continue
        for row in one.verification.rows:
            point = row.point
            few = " (few errors)" if row.few_errors else ""
            rows.append(
                [
                    _name(one, several),
                    f"{point.far:g}",
                    "–" if point.tar is None else f"{point.tar:.4f}",
                    point.reason or _interval(row.interval),
                    "" if point.threshold is None else f"{point.threshold:.4f}",
                    "" if point.false_accepts is None else f"{point.false_accepts:,}{few}",
                    f"{row.published_tpr:.4f} at {row.published_fpr:.2g}",
                ]
            )
        figures = one.verification
        eer = f"{figures.eer.eer:.4f}"
        between = f"the rates cross between {figures.eer.low:.4f} and {figures.eer.high:.4f}"
        found = f"EER {eer} ({between}), AUC {figures.auc:.6f}"
        rows.append([_name(one, several), "", "", found, "", "", ""])
    return rows


def _interval(interval: BootstrapInterval | None) -> str:
    if interval is None or interval.interval95 is None:
        return "" if interval is None else interval.reason or ""
    low, high = interval.interval95
    return f"{low:.4f} to {high:.4f}{' (too narrow)' if interval.method == BY_PAIR else ''}"


def _searches(sets: Sequence[SetResult], several: bool) -> list[Row]:
    rows = [["gallery", "subjects", "mated", "non-mated", "figure", "value", "95% interval"]]
    for one in sets:
        for gallery in () if one.search is None else one.search.galleries:
            found = gallery.search
            start = [
                f"{_name(one, several)} {gallery.name}", f"{found.gallery_subjects:,}",
                f"{found.mated:,}", f"{found.non_mated:,}",
            ]  # fmt: skip
            for rank, rate in found.rank.items():
                limits = found.rank_wilson95[rank]
                wilson = "" if limits is None else f"{limits[0]:.4f} to {limits[1]:.4f} (Wilson)"
                rows.append([*start, f"rank-{rank}", _rate(rate), wilson])
            for point, interval in zip(found.tpir_at_fpir, gallery.tpir_intervals, strict=True):
                limits_text = point.reason or _interval(interval)
                rows.append([*start, f"TPIR@{point.fpir:g}", _rate(point.tpir), limits_text])
    return rows


def _rate(rate: float | None) -> str:
    return "–" if rate is None else f"{rate:.4f}"


def _identification(sets: Sequence[SetResult], several: bool) -> list[Row]:
    rows = [["set", "probes", "gallery", "noise", "rank-k", "mAP"]]
    for one in sets:
        for run in one.megaface:
            figures = run.figures
            rows.append(
                [_name(one, several), f"{figures.probes:,}", f"{figures.distractors:,}", run.noise,
                 _ranks(figures.rank), ""]
            )  # fmt: skip
        if (tiny := one.tinyface) is not None:
            rows.append(
                [_name(one, several), f"{tiny.mated_probes:,}", f"{tiny.gallery:,}", "",
                 _ranks(tiny.rank), f"{tiny.map:.4f}"]
            )  # fmt: skip
    return rows


def _ranks(rank: dict[int, float]) -> str:
    return ", ".join(f"{k}: {rate:.4f}" for k, rate in rank.items())


def _groups(sets: Sequence[SetResult], several: bool) -> list[Row]:
    rows = [["set", "FAR over all", "group", "FMR", "FNMR"]]
    for one in sets:
        for found in one.groups:
            start = [_name(one, several), f"{found.far:g}"]
            if found.reason is not None:
                rows.append([*start, "–", found.reason, ""])
            for group in found.groups:
                rows.append([*start, group.group, _rate(group.fmr), _rate(group.fnmr)])
    return rows


def _calibration(results: Results, several: bool) -> list[Row]:
    rows = [["threshold of", "at FAR", "applied to", "FMR", "FNMR"]]
    for one in results.calibration:
        applied = f"{one.applied_to} [{one.model}]" if several else one.applied_to
        found = [one.reason or "", ""]
        if one.found is not None:
            found = [f"{one.found.fmr:.4f}", f"{one.found.fnmr:.4f}"]
        rows.append([one.chosen_on, f"{one.far:g}", applied, *found])
    return rows


def _comparisons(results: Results) -> list[Row]:
    return [
        ["set", "figure", "of", "minus that of", "difference", "95% interval"],
        *_compared(results),
    ]


def _compared(results: Results) -> Iterator[Row]:
    for one in results.comparisons:
        name = one.set if one.mode is None else f"{one.set} {one.mode}"
        difference = "–" if one.difference is None else f"{one.difference:+.4f}"
        interval = one.interval
        limits = one.reason or ""
        if interval is not None:
            limits = _interval(interval)
        figure = one.figure if one.far is None else f"{one.figure} at {one.far:g}"
        yield [name, figure, one.model, one.baseline, difference, limits]
