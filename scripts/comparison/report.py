"""The figures of a comparison as tables for people and as JSON for everything else."""

import json
import math
import platform
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from recognition.config import Config
from recognition.version import __version__
from scripts.comparison.cells import CellResult

MISSING = "–"
START = "<!-- comparison: written by scripts/compare_heads.py --docs -->"
END = "<!-- end of comparison -->"


@dataclass(frozen=True)
class Facts:
    """What all runs of a comparison share.

    Attributes:
        config: of one of the runs.
        identities: classes of the training set.
        images: of the training set.
        ranks: processes a run.
    """

    config: Config
    identities: int
    images: int
    ranks: int


def write_json(file: Path, facts: Facts, results: Sequence[CellResult]) -> None:
    """Write every figure of every run, the curves included."""
    record = {
        "machine": machine(),
        "versions": versions(),
        "identities": facts.identities,
        "images": facts.images,
        "runs": [result.model_dump(mode="json") for result in results],
    }
    file.write_text(json.dumps(record, indent=1) + "\n")


def markdown(facts: Facts, results: Sequence[CellResult]) -> str:
    """Return the report: the setting, accuracies, TAR at FAR, cost, spread between seeds.

    A figure of a method with several seeds is the mean of them.
    """
    methods = by_method(results)
    sets = list(results[0].sets)
    parts = [
        setting(facts, results),
        "Accuracy with flip, in percent:",
        table(["method", *sets, "mean"], _rows(methods, _accuracy_columns(sets))),
        *_tar_table(methods, results),
        "Cost, and the mean cosine between samples and their own centres at the end:",
        table(["method", *COST], _rows(methods, COST.values())),
        *_notes(methods, sets),
    ]
    return "\n\n".join(parts) + "\n"


def insert(page: Path, text: str) -> None:
    """Put the report into a page, between its two marks, in place of what is there.

    Raises `ValueError` for a page without them.
    """
    before, after = around_marks(page)
    page.write_text(f"{before}{START}\n\n{text.strip()}\n\n{END}{after}", encoding="utf-8")


def around_marks(page: Path) -> tuple[str, str]:
    """Return what a page has before and after its place for the report.

    Raises `ValueError` for a page without the two marks.
    """
    before, start, rest = page.read_text(encoding="utf-8").partition(START)
    _, end, after = rest.partition(END)
    if not (start and end):
        raise ValueError(f"{page}: expected the lines {START} and {END}, in this order")
    return before, after


def by_method(results: Iterable[CellResult]) -> dict[str, list[CellResult]]:
    """Return the results of each method, in order of first appearance."""
    methods: dict[str, list[CellResult]] = {}
    for result in results:
        methods.setdefault(result.method, []).append(result)
    return methods


def setting(facts: Facts, results: Sequence[CellResult]) -> str:
    """Return one paragraph that says what was trained, on what, and where."""
    config = facts.config
    seeds = sorted({result.seed for result in results})
    return (
        f"{facts.images:,} images of {facts.identities:,} identities at a side of "
        f"{config.data.image_size}; `{config.backbone.name}`, embedding size "
        f"{config.backbone.embedding_size}; {results[0].steps:,} steps of "
        f"{config.train.global_batch_size} images, {config.train.precision}; "
        f"seed(s) {', '.join(map(str, seeds))}; {facts.ranks} rank(s) on {machine()}; "
        f"{', '.join(f'{name} {version}' for name, version in versions().items())}."
    )


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a markdown table; the first column is text, the others are numbers."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def machine() -> str:
    """Return the processor, and the GPU if there is one."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        models = [line for line in cpuinfo.read_text().splitlines() if "model name" in line]
        name = models[0].partition(":")[2].strip() if models else name
    cpu = f"{torch.get_num_threads()} thread(s) of {name}"
    return f"{torch.cuda.get_device_name()} and {cpu}" if torch.cuda.is_available() else cpu


def versions() -> dict[str, str]:
    """Return the versions that figures may depend on."""
    return {
        "partialfc": __version__,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
    }


Figure = Callable[[CellResult], float | None]
Column = tuple[Figure, str]
"""A number of one run, and how the mean over the seeds is written."""

COST: Mapping[str, Column] = {
    "ms a step": (lambda run: 1000 * run.step_seconds, "{:.1f}"),
    "of it selection": (
        lambda run: None if run.selection_seconds is None else 1000 * run.selection_seconds,
        "{:.2f}",
    ),
    "memory, MiB": (lambda run: 1024 * run.memory_gib, "{:,.0f}"),
    "active classes": (lambda run: run.active_classes, "{:,.0f}"),
    "final cosine": (lambda run: run.curve[-1][1], "{:.3f}"),
    "final loss": (lambda run: run.loss, "{:.3f}"),
}


def _accuracy_columns(sets: Sequence[str]) -> list[Column]:
    return [(_accuracy_of(name), "{:.2f}") for name in sets] + [(mean_accuracy, "{:.2f}")]


def _accuracy_of(name: str) -> Figure:
    return lambda run: 100 * run.sets[name].accuracy


def mean_accuracy(run: CellResult) -> float:
    """Return the mean accuracy over the sets, in percent."""
    return 100 * statistics.mean(figures.accuracy for figures in run.sets.values())


def _tar_rates(results: Sequence[CellResult]) -> list[tuple[str, str]]:
    """Return each (set, false accept rate) that the set is large enough for."""
    return [
        (name, rate)
        for name, figures in results[0].sets.items()
        for rate, value in figures.tar_at_far.items()
        if value is not None
    ]


def _tar_table(
    methods: Mapping[str, Sequence[CellResult]], results: Sequence[CellResult]
) -> list[str]:
    rates = _tar_rates(results)
    if not rates:
        return ["No set has the pairs for a TAR at FAR."]
    columns: list[Column] = [(_tar_of(name, rate), "{:.2f}") for name, rate in rates]
    head = ["method", *(f"{name} @ {rate}" for name, rate in rates)]
    return ["TAR at FAR, in percent:", table(head, _rows(methods, columns))]


def _tar_of(name: str, rate: str) -> Figure:
    def figure(run: CellResult) -> float | None:
        value = run.sets[name].tar_at_far[rate]
        return None if value is None else 100 * value

    return figure


def _rows(
    methods: Mapping[str, Sequence[CellResult]], columns: Iterable[Column]
) -> list[list[str]]:
    columns = list(columns)
    return [
        [f"`{method}`", *(_mean(runs, figure, form) for figure, form in columns)]
        for method, runs in methods.items()
    ]


def _mean(runs: Sequence[CellResult], figure: Figure, form: str) -> str:
    values = [value for value in map(figure, runs) if value is not None]
    return form.format(statistics.mean(values)) if len(values) == len(runs) else MISSING


def _notes(methods: Mapping[str, Sequence[CellResult]], sets: Sequence[str]) -> list[str]:
    """Say how large a difference must be to mean something, as far as the runs tell."""
    runs = [run for several in methods.values() for run in several]
    errors = []
    for name in sets:
        share = statistics.mean(run.sets[name].accuracy for run in runs)
        error = 100 * math.sqrt(share * (1 - share) / runs[0].sets[name].pairs)
        errors.append(f"{name} {error:.2f}")
    notes = [
        "Standard error of an accuracy for the number of pairs alone, in points: "
        f"{', '.join(errors)}."
    ]
    for method, several in methods.items():
        if len(several) > 1:
            spreads = [f"{name} {_spread(several, _accuracy_of(name)):.2f}" for name in sets]
            notes.append(
                f"Spread of `{method}` over {len(several)} seeds, highest less lowest accuracy, in "
                f"points: {', '.join(spreads)}, mean of the sets "
                f"{_spread(several, mean_accuracy):.2f}. A difference between methods that is no "
                "larger may be noise."
            )
    return notes


def _spread(runs: Sequence[CellResult], figure: Figure) -> float:
    values = [value for value in map(figure, runs) if value is not None]
    return max(values) - min(values)
