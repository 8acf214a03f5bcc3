"""One run of a comparison: trained by `train.py` as a user would, and its figures."""

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

from data.files import atomic_write
from recognition.config import Section
from recognition.config_file import config_values
from scripts.comparison.settings import MethodRun

ROOT: Final = Path(__file__).resolve().parents[2]
RESULT: Final = "result.json"
TERMINAL: Final = "terminal.txt"


class RunError(ValueError):
    """A run that failed, or whose folder holds another run; the message says which and why."""


class SetFigures(Section):
    """A verification set after the last step."""

    pairs: int
    accuracy: float  # with flip, 0 … 1
    accuracy_no_flip: float
    tar_at_far: dict[str, float | None]  # by false accept rate; None where the set is too small


class RunResult(Section):
    """The figures of one run. Times are medians over the log intervals."""

    method: str
    seed: int
    ranks: int  # processes that trained it
    head: dict[str, Any]  # the resolved section `head` of its config
    steps: int  # optimizer steps
    sets: dict[str, SetFigures]  # by name
    loss: float  # mean over the last log interval
    step_seconds: float  # including waiting for data, excluding verification and saving
    selection_seconds: float | None  # of it, choosing the active classes; None: not recorded
    memory_gib: float  # peak of rank 0: of its process on a CPU, of its tensors on a GPU
    active_classes: float  # in the last step, over all ranks
    curve: list[tuple[int, float]]  # step, mean cosine to the target centres, per log interval


def finished(run: MethodRun, ranks: int) -> RunResult | None:
    """Return the figures of a run, or None if it has not been trained to the end.

    Raises `RunError` when its folder holds a run with other settings or another number of ranks,
    whose figures cannot be compared.
    """
    started = run.folder / "config.yaml"
    fix = f"delete {run.folder}, or choose another folder with --output"
    if started.is_file():
        old = flat(yaml.safe_load(started.read_text()))
        new = flat(config_values(run.config))
        changed = [
            f"{key} was {old.get(key)} and is {new.get(key)}"
            for key in sorted({*old, *new} - {"output"})  # a comparison may be moved as a whole
            if old.get(key) != new.get(key)
        ]
        if changed:
            raise RunError(f"{run.folder} has other settings: {'; '.join(changed)}: {fix}")
    file = run.folder / RESULT
    if not file.is_file():
        return None
    try:
        result = RunResult.model_validate_json(file.read_text())
    except ValidationError as error:
        raise RunError(
            f"{file} is damaged or of another version ({error.error_count()} problems, first: "
            f"{error.errors()[0]['msg']}): delete the file to have its figures collected again"
        ) from None
    if result.ranks != ranks:
        raise RunError(f"{run.folder} was trained on {result.ranks} ranks, not {ranks}: {fix}")
    return result


def train_run(run: MethodRun, ranks: int) -> RunResult:
    """Train a run, from its last checkpoint if it was interrupted, and return its figures.

    Its output is written to `terminal.txt` in its folder. Raises `RunError` with the last lines
    of it when the run fails.
    """
    run.folder.mkdir(parents=True, exist_ok=True)
    terminal = run.folder / TERMINAL
    with (
        terminal.open("a") as output,
        subprocess.Popen(
            train_command(run, ranks),
            stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
        ) as process,
    ):  # fmt: skip
        try:
            code = process.wait()
        except BaseException:
            process.terminate()  # a run that nobody waits for must not go on
            raise
    if code != 0:
        raise RunError(f"ended with {code}; {terminal} ends with:\n{_tail(terminal)}")
    result = collect(run, ranks)
    with atomic_write(run.folder / RESULT) as file:
        file.write(result.model_dump_json(indent=1).encode() + b"\n")
    return result


def train_command(run: MethodRun, ranks: int) -> list[str]:
    """Return the command that trains a run."""
    launcher = [sys.executable]
    if ranks > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    settings = [part for override in run.overrides for part in ("--set", override)]
    return [
        *launcher, str(ROOT / "train.py"), "--config", str(run.config_file), *settings,
        "--resume", "auto",
    ]  # fmt: skip


def collect(run: MethodRun, ranks: int) -> RunResult:
    """Return the figures of a complete run, from its `metrics.jsonl`."""
    metrics = run.folder / "metrics.jsonl"
    records = [json.loads(line) for line in metrics.read_text().splitlines()]
    logs = [record for record in records if record["event"] == "train"]
    last = logs[-1]
    batch = run.config.train.global_batch_size
    # The first interval warms up caches and allocators; a run with one interval has no other.
    timed = logs[1:] or logs
    selection = [log["selection_seconds"] for log in timed if "selection_seconds" in log]
    return RunResult(
        method=run.method,
        seed=run.seed,
        ranks=ranks,
        head=run.config.head.model_dump(mode="json"),
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


def train_all(runs: Sequence[MethodRun], ranks: int) -> tuple[list[RunResult], list[str]]:
    """Train what is not finished yet; return all figures, and the names of runs that failed.

    Prints a line per run, with an estimate of the remaining time. When a run fails, the others
    are still trained. Raises `RunError`, before any training, for a folder that holds another run.
    """
    found = {run.name: finished(run, ranks) for run in runs}
    left = sum(result is None for result in found.values())
    print(f"{len(runs)} runs, {len(runs) - left} of them finished before", flush=True)
    results, failed, spent = [], [], []
    for number, run in enumerate(runs, 1):
        result, label = found[run.name], f"[{number}/{len(runs)}] {run.name}"
        if result is None:
            print(f"{label}: training; {run.folder / 'log.txt'}", flush=True)
            started = time.monotonic()
            try:
                result = train_run(run, ranks)
            except RunError as error:
                failed.append(run.name)
                print(f"{label}: FAILED: {error}", file=sys.stderr, flush=True)
            spent.append(time.monotonic() - started)
        if result is not None:
            results.append(result)
            sets = [f"{name} {figures.accuracy:.4f}" for name, figures in result.sets.items()]
            line = f"{', '.join(sets)}, {1000 * result.step_seconds:.0f} ms per step"
            print(f"{label}: {line}{_remaining(spent, left)}", flush=True)
    return results, failed


def _remaining(spent: Sequence[float], left: int) -> str:
    if not spent or left == len(spent):
        return ""
    minutes = statistics.mean(spent) * (left - len(spent)) / 60
    return f" | {spent[-1]:.0f} s; about {minutes:.0f} min left"


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return `{section: {key: value}}` as `{section.key: value}`."""
    result: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            result |= flat(value, f"{prefix}{key}.")
        else:
            result[prefix + key] = value
    return result


def _tail(path: Path, lines: int = 12) -> str:
    """Return the last lines of a terminal's output as they looked: progress bars overwritten."""
    with path.open(errors="replace", newline="") as stream:
        text = [line.rstrip().rpartition("\r")[2] for line in stream]
    shown = [line for line in text if line.strip()]
    return "\n".join(f"    {line}" for line in shown[-lines:])
