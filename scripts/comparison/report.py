"""The figures of a comparison as tables for people and as JSON for everything else."""

import json
import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from recognition.config import Config
from scripts.benchmarks.common.machine import cpu_name, versions
from scripts.benchmarks.common.page import MISSING, table
from scripts.comparison.runs import RunResult

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
    return {**percent, "mean": statistics.mean(percent.values())}


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


# How the mean over the seeds is written, if not as "{:.2f}".
_FORMS = {
    "ms per step": "{:.1f}",
    "memory, MiB": "{:,.0f}",
    "active classes": "{:,.0f}",
    "final cosine": "{:.3f}",
    "final loss": "{:.3f}",
}


def write_json(file: Path, setup: SharedSetup, results: Sequence[RunResult]) -> None:
    """Write every figure of every run, the curves included."""
    record = {
        "machine": machine(),
        "versions": versions(),
        "identities": setup.identities,
        "images": setup.images,
        "runs": [result.model_dump(mode="json") for result in results],
    }
    file.write_text(json.dumps(record, indent=1) + "\n")


def markdown(setup: SharedSetup, results: Sequence[RunResult]) -> str:
    """Return the report: the setup, accuracies, TAR at FAR, cost, spread between seeds.

    A figure of a method with several seeds is their mean.
    """
    methods = by_method(results)
    # Only the false accept rates that a set is large enough for.
    tars = [name for name, value in _tars(results[0]).items() if value is not None]
    parts = [
        _describe(setup, results),
        "Accuracy with flip, in percent:",
        _table(methods, _accuracies, list(_accuracies(results[0]))),
        "TAR at FAR, in percent:" if tars else "No set has enough pairs for a TAR at FAR.",
        *([_table(methods, _tars, tars)] if tars else []),
        "Cost, and the mean cosine between samples and their target centres at the end:",
        _table(methods, _cost, list(_cost(results[0]))),
        *_notes(methods),
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


def _notes(methods: Methods) -> list[str]:
    """Say how large a difference must be to be meaningful, as far as the runs tell."""
    runs = [run for several in methods.values() for run in several]
    errors = []
    for name, figures in runs[0].sets.items():
        mean = statistics.mean(run.sets[name].accuracy for run in runs)
        errors.append(f"{name} {100 * math.sqrt(mean * (1 - mean) / figures.pairs):.2f}")
    notes = [
        "Standard error of an accuracy from the number of pairs alone, in points: "
        f"{', '.join(errors)}."
    ]
    for method, several in methods.items():
        if len(several) > 1:
            spreads = [
                f"{name} {_spread([run.sets[name].accuracy for run in several]):.2f}"
                for name in several[0].sets
            ]
            means = [statistics.mean(s.accuracy for s in run.sets.values()) for run in several]
            notes.append(
                f"Spread of `{method}` over {len(several)} seeds, highest minus lowest accuracy, "
                f"in points: {', '.join(spreads)}, mean of the sets {_spread(means):.2f}. A "
                "difference between methods that is not larger may be noise."
            )
    return notes


def _spread(accuracies: Sequence[float]) -> float:
    return 100 * (max(accuracies) - min(accuracies))
