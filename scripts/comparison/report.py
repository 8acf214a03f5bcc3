"""The figures of a comparison as tables for people and as JSON for everything else."""

import json
import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from recognition.config import Config
from scripts.benchmarks.common.machine import cpu_name, versions
from scripts.benchmarks.common.page import MISSING, table
from scripts.comparison.runs import RunResult
from scripts.comparison.seeds import Difference, Summary, difference, summarise

START = "<!-- comparison: written by scripts/compare_heads.py --docs -->"
END = "<!-- end of comparison -->"

Methods = Mapping[str, Sequence[RunResult]]
Figures = Callable[[RunResult], Mapping[str, float | None]]
"""Numbers of one run, by the heading of their column."""


@dataclass(frozen=True)
class SharedSetup:
    """What all runs of a comparison have in common."""

    config: Config  # of one of the runs
    identities: int
    images: int
    ranks: int


def _accuracies(run: RunResult) -> dict[str, float | None]:
    percent = {name: 100 * figures.accuracy for name, figures in run.sets.items()}
    return {**percent, "mean": _mean_accuracy(run)}


def _mean_accuracy(run: RunResult) -> float:
    """Return the mean over the sets, in percent."""
    return statistics.mean(100 * figures.accuracy for figures in run.sets.values())


def _tars(run: RunResult) -> dict[str, float | None]:
    return {
        f"{name} @ {rate}": None if value is None else 100 * value
        for name, figures in run.sets.items()
        for rate, value in figures.tar_at_far.items()
    }


def _cost(run: RunResult) -> dict[str, float | None]:
    selection = run.selection_seconds
    return {
        "ms per step": 1000 * run.step_seconds,
        "of it selection": None if selection is None else 1000 * selection,
        "memory, MiB": 1024 * run.memory_gib,
        "active classes": run.active_classes,
        "final cosine": run.curve[-1][1],
        "final loss": run.loss,
    }


# How the mean of a cost over the seeds is written, if not as "{:.2f}".
_FORMS = {
    "ms per step": "{:.1f}",
    "memory, MiB": "{:,.0f}",
    "active classes": "{:,.0f}",
    "final cosine": "{:.3f}",
    "final loss": "{:.3f}",
}


def write_json(file: Path, setup: SharedSetup, results: Sequence[RunResult]) -> None:
    """Write every figure of every run, the curves included, and the report's over the seeds."""
    methods = by_method(results)
    record = {
        "machine": machine(),
        "versions": versions(),
        "identities": setup.identities,
        "images": setup.images,
        "methods": {method: _over_seeds(runs) for method, runs in methods.items()},
        "differences": {
            "baseline": next(iter(methods)),
            "mean_accuracy_points": {
                method: asdict(found) for method, found in _differences(methods).items()
            },
        },
        "runs": [result.model_dump(mode="json") for result in results],
    }
    file.write_text(json.dumps(record, indent=1) + "\n")


def markdown(setup: SharedSetup, results: Sequence[RunResult]) -> str:
    """Return the report: the setup, accuracies, TAR at FAR, cost, differences to the baseline.

    The baseline is the first method. A figure of a method with several seeds is their mean, an
    accuracy or TAR with its standard deviation over the seeds.
    """
    methods = by_method(results)
    # Only the false accept rates that a set is large enough for.
    tars = [name for name, value in _tars(results[0]).items() if value is not None]
    parts = [
        _describe(setup, results),
        "Accuracy with flip, in percent; of several seeds mean ± standard deviation:",
        _spread_table(methods, _accuracies, list(_accuracies(results[0])), count=True),
        "TAR at FAR, in percent:" if tars else "No set has enough pairs for a TAR at FAR.",
        *([_spread_table(methods, _tars, tars)] if tars else []),
        "Cost, and the mean cosine between samples and their target centres at the end:",
        _table(methods, _cost, list(_cost(results[0]))),
        *_difference_table(methods),
        _note(results),
    ]
    return "\n\n".join(parts) + "\n"


def insert(page: Path, text: str) -> None:
    """Put the report into a page, between its two marks, in place of what is there."""
    before, after = around_marks(page)
    page.write_text(f"{before}{START}\n\n{text.strip()}\n\n{END}{after}", encoding="utf-8")


def around_marks(page: Path) -> tuple[str, str]:
    """Return a page's text before and after the two marks; raises `ValueError` without them."""
    before, start, rest = page.read_text(encoding="utf-8").partition(START)
    _, end, after = rest.partition(END)
    if not (start and end):
        raise ValueError(f"{page}: expected the lines {START} and {END}, in this order")
    return before, after


def by_method(results: Iterable[RunResult]) -> dict[str, list[RunResult]]:
    """Return the results of each method, in order of first appearance."""
    methods: dict[str, list[RunResult]] = {}
    for result in results:
        methods.setdefault(result.method, []).append(result)
    return methods


def machine() -> str:
    """Return the processor, and the GPU if there is one."""
    cpu = f"{torch.get_num_threads()} thread(s) of {cpu_name()}"
    return f"{torch.cuda.get_device_name()} and {cpu}" if torch.cuda.is_available() else cpu


def _describe(setup: SharedSetup, results: Sequence[RunResult]) -> str:
    """Return one paragraph that says what was trained, on what, and where."""
    config = setup.config
    seeds = sorted({result.seed for result in results})
    return (
        f"{setup.images:,} images of {setup.identities:,} identities with "
        f"{config.data.image_size}x{config.data.image_size} pixels; `{config.backbone.name}`, "
        f"embedding size {config.backbone.embedding_size}; {results[0].steps:,} steps of "
        f"{config.train.global_batch_size} images, {config.train.precision}; "
        f"seed(s) {', '.join(map(str, seeds))}; {setup.ranks} rank(s) on {machine()}; "
        f"{', '.join(f'{name} {version}' for name, version in versions().items())}."
    )


def _over_seeds(runs: Sequence[RunResult]) -> dict[str, Any]:
    """Return a method's figures over its seeds, as `results.json` has them."""

    def summaries(figures: Figures) -> dict[str, Any]:
        found = {name: summarise([figures(run)[name] for run in runs]) for name in figures(runs[0])}
        return {name: None if one is None else asdict(one) for name, one in found.items()}

    return {
        "seeds": [run.seed for run in runs],
        "accuracy_percent": summaries(_accuracies),
        "tar_percent": summaries(_tars),
    }


def _differences(methods: Methods) -> dict[str, Difference]:
    """Return the differences in mean accuracy, in points, to the first method, by method."""
    accuracies = {
        method: {run.seed: _mean_accuracy(run) for run in runs} for method, runs in methods.items()
    }
    baseline, *others = accuracies
    found = {method: difference(accuracies[method], accuracies[baseline]) for method in others}
    return {method: one for method, one in found.items() if one is not None}


def _spread_table(
    methods: Methods, figures: Figures, names: Sequence[str], *, count: bool = False
) -> str:
    """Return a table of means with their standard deviations; `count` adds the number of seeds."""
    rows = [
        [
            f"`{method}`",
            *([str(len(runs))] if count else []),
            *(_with_deviation(summarise([figures(run)[name] for run in runs])) for name in names),
        ]
        for method, runs in methods.items()
    ]
    return table(["method", *(["seeds"] if count else []), *names], rows)


def _with_deviation(summary: Summary | None) -> str:
    if summary is None:
        return MISSING
    if summary.deviation is None:
        return f"{summary.mean:.1f}"
    return f"{summary.mean:.1f} ± {summary.deviation:.1f}"


def _difference_table(methods: Methods) -> list[str]:
    """Return what a ranking rests on; nothing if no method shares two seeds with the first."""
    differences = _differences(methods)
    if not differences:
        return []
    head = ["method", f"difference to `{next(iter(methods))}`", "standard error", "seeds"]
    rows = [
        [
            f"`{method}`", f"{one.mean:+.2f}", f"{one.standard_error:.2f}",
            ", ".join(map(str, one.seeds)),
        ]
        for method, one in differences.items()
    ]  # fmt: skip
    # The 97.5% points of Student's t distribution with 4, 2 and 1 degrees of freedom.
    words = (
        "Difference in mean accuracy, in points, paired by seed over the seeds that both methods "
        "have. It is significant (95%) from 2.8 standard errors on with five seeds, 4.3 with three "
        "and 12.7 with two:"
    )
    return [words, table(head, rows)]


def _table(methods: Methods, figures: Figures, names: Sequence[str]) -> str:
    """Return a table of the figures with these names, each the mean over a method's runs."""
    cells = [
        [f"`{method}`", *(_mean([figures(run)[name] for run in runs], name) for name in names)]
        for method, runs in methods.items()
    ]
    return table(["method", *names], cells)


def _mean(values: Sequence[float | None], name: str) -> str:
    known = [value for value in values if value is not None]
    form = _FORMS.get(name, "{:.2f}")
    return form.format(statistics.mean(known)) if len(known) == len(values) else MISSING


def _note(runs: Sequence[RunResult]) -> str:
    """Say how large the error of an accuracy is from the size of the sets alone."""
    errors = []
    for name, figures in runs[0].sets.items():
        mean = statistics.mean(run.sets[name].accuracy for run in runs)
        errors.append(f"{name} {100 * math.sqrt(mean * (1 - mean) / figures.pairs):.2f}")
    return (
        "Standard error of an accuracy from the number of pairs alone, in points: "
        f"{', '.join(errors)}."
    )
