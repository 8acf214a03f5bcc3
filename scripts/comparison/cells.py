"""One run of a comparison: trained by `train.py` as a user would, and what came of it."""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import yaml
from pydantic import ValidationError

from recognition.config import Section
from scripts.comparison.settings import Cell

ROOT: Final = Path(__file__).resolve().parents[2]
RESULT: Final = "result.json"
TERMINAL: Final = "terminal.txt"


class CellError(ValueError):
    """A run that failed, or whose folder holds something else; the message says which and why."""


class SetFigures(Section):
    """A verification set after the last step.

    Attributes:
        pairs: how many pairs it has.
        accuracy: with flip, 0 … 1.
        accuracy_no_flip: without.
        tar_at_far: true accept rate by false accept rate; None where the set is too small to tell.
    """

    pairs: int
    accuracy: float
    accuracy_no_flip: float
    tar_at_far: dict[str, float | None]


class CellResult(Section):
    """The figures of one run.

    Attributes:
        method: its name.
        seed: of the run.
        ranks: processes it was trained by.
        head: the resolved section `head` of its config.
        steps: optimizer steps.
        sets: verification after the last step, by name.
        loss: mean over the last log interval.
        step_seconds: median over the log intervals of the seconds a step, waiting for data
            included, verification and saving not.
        selection_seconds: the same median of what choosing the active classes took; None where
            the run did not record it.
        memory_gib: most memory used by rank 0: its process on a CPU, its tensors on a GPU.
        active_classes: classes that took part in the last step, over all ranks.
        curve: (step, mean cosine between samples and their own centres) of each log interval.
    """

    method: str
    seed: int
    ranks: int
    head: dict[str, Any]
    steps: int
    sets: dict[str, SetFigures]
    loss: float
    step_seconds: float
    selection_seconds: float | None
    memory_gib: float
    active_classes: float
    curve: list[tuple[int, float]]


def finished(cell: Cell, ranks: int) -> CellResult | None:
    """Return what a run came to, or None if it is still to be trained, in whole or in part.

    Raises `CellError` when its folder holds a run with other settings or on other ranks, whose
    figures would not compare.
    """
    started = cell.folder / "config.yaml"
    mend = f"delete {cell.folder}, or choose another folder with --output"
    if started.is_file():
        found = yaml.safe_load(started.read_text())
        wanted = cell.config.model_dump(mode="json")
        # A comparison may be moved to another folder as a whole.
        changed = _differences({**found, "output": None}, {**wanted, "output": None})
        if changed:
            raise CellError(f"{cell.folder} is of other settings: {'; '.join(changed)}: {mend}")
    file = cell.folder / RESULT
    if not file.is_file():
        return None
    try:
        result = CellResult.model_validate_json(file.read_text())
    except ValidationError as error:
        raise CellError(
            f"{file} is damaged or of another version ({error.error_count()} problems, first: "
            f"{error.errors()[0]['msg']}): delete the file, and its figures are collected anew"
        ) from None
    if result.ranks != ranks:
        raise CellError(f"{cell.folder} was trained on {result.ranks} ranks, not {ranks}: {mend}")
    return result


def train_cell(cell: Cell, ranks: int) -> CellResult:
    """Train a run, from its last checkpoint if it was interrupted, and return its figures.

    What it prints goes to `terminal.txt` in its folder. Raises `CellError` with its last lines
    when it fails.
    """
    cell.folder.mkdir(parents=True, exist_ok=True)
    terminal = cell.folder / TERMINAL
    with (
        terminal.open("a") as output,
        subprocess.Popen(
            command(cell, ranks),
            stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
        ) as process,
    ):  # fmt: skip
        try:
            code = process.wait()
        except BaseException:
            process.terminate()  # a run nobody waits for must not go on
            raise
    if code != 0:
        raise CellError(f"ended with {code}; {terminal} ends with:\n{_tail(terminal)}")
    result = collect(cell, ranks)
    partial = cell.folder / f"{RESULT}.partial"
    partial.write_text(result.model_dump_json(indent=1) + "\n")
    partial.replace(cell.folder / RESULT)
    return result


def command(cell: Cell, ranks: int) -> list[str]:
    """Return the command that trains a run."""
    launcher = [sys.executable]
    if ranks > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    settings = [part for override in cell.overrides for part in ("--set", override)]
    return [
        *launcher, str(ROOT / "train.py"), "--config", str(cell.run), *settings, "--resume", "auto"
    ]  # fmt: skip


def collect(cell: Cell, ranks: int) -> CellResult:
    """Return the figures of a run that is complete, from its `metrics.jsonl`."""
    metrics = cell.folder / "metrics.jsonl"
    records = [json.loads(line) for line in metrics.read_text().splitlines()]
    logs = [record for record in records if record["event"] == "train"]
    last = logs[-1]
    batch = cell.config.train.global_batch_size
    # The first interval warms up caches and allocators; a run with one interval has no other.
    timed = logs[1:] or logs
    selection = [log["selection_seconds"] for log in timed if "selection_seconds" in log]
    return CellResult(
        method=cell.method,
        seed=cell.seed,
        ranks=ranks,
        head=cell.config.head.model_dump(mode="json"),
        steps=last["step"],
        sets={
            record["set"]: SetFigures(**{key: record[key] for key in SetFigures.model_fields})
            for record in records
            if record["event"] == "verification" and record["step"] == last["step"]
        },
        loss=last["loss"],
        step_seconds=statistics.median(batch / log["images_per_second"] for log in timed),
        selection_seconds=statistics.median(selection) if selection else None,
        memory_gib=max(log["memory_gb"] for log in logs),
        active_classes=last["active_classes"],
        curve=[(log["step"], log["cosine_positive"]) for log in logs],
    )


def train_all(cells: Sequence[Cell], ranks: int) -> tuple[list[CellResult], list[str]]:
    """Train what is not finished yet; return all figures, and the names of runs that failed.

    Prints a line a run, with the time that the others will take at the mean pace so far. A run
    that fails does not keep the others from being trained. Raises `CellError`, before any
    training, for a folder that holds something else.
    """
    found = {cell.name: finished(cell, ranks) for cell in cells}
    left = sum(result is None for result in found.values())
    print(f"{len(cells)} runs, {len(cells) - left} of them finished before", flush=True)
    results, failed, spent = [], [], []
    for number, cell in enumerate(cells, 1):
        result, place = found[cell.name], f"[{number}/{len(cells)}] {cell.name}"
        if result is None:
            print(f"{place}: training; {cell.folder / 'log.txt'}", flush=True)
            started = time.monotonic()
            try:
                result = train_cell(cell, ranks)
            except CellError as error:
                failed.append(cell.name)
                print(f"{place}: FAILED: {error}", file=sys.stderr, flush=True)
            spent.append(time.monotonic() - started)
        if result is not None:
            results.append(result)
            print(f"{place}: {_line(result)}{_remaining(spent, left)}", flush=True)
    return results, failed


def _line(result: CellResult) -> str:
    accuracies = [f"{name} {figures.accuracy:.4f}" for name, figures in result.sets.items()]
    return f"{', '.join(accuracies)}, {1000 * result.step_seconds:.0f} ms a step"


def _remaining(spent: Sequence[float], left: int) -> str:
    if not spent or left == len(spent):
        return ""
    minutes = statistics.mean(spent) * (left - len(spent)) / 60
    return f" | {spent[-1]:.0f} s; about {minutes:.0f} min left"


def _differences(
    found: Mapping[str, Any], wanted: Mapping[str, Any], prefix: str = ""
) -> list[str]:
    """Return each setting whose value changed, as `key was a and is b`."""
    lines = []
    for key in sorted({*found, *wanted}):
        old, new = found.get(key), wanted.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            lines += _differences(old, new, f"{prefix}{key}.")
        elif old != new:
            lines.append(f"{prefix}{key} was {old} and is {new}")
    return lines


def _tail(path: Path, lines: int = 12) -> str:
    """Return the last lines of a terminal's output as they looked, progress bars overwritten."""
    with path.open(errors="replace", newline="") as stream:
        text = [line.rstrip().rpartition("\r")[2] for line in stream]
    shown = [line for line in text if line.strip()]
    return "\n".join(f"    {line}" for line in shown[-lines:])
