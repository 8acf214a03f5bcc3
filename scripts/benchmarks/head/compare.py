"""Measures methods against the baseline, their steps taken in turn."""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

import torch

from scripts.benchmarks.common.memory import available_bytes
from scripts.benchmarks.common.processes import ProcessError, in_fresh_process
from scripts.benchmarks.head.cases import HeadCase, global_batch
from scripts.benchmarks.head.methods import BASELINE, comparable, needed_bytes
from scripts.benchmarks.head.processes import RunningCase, Step, Usage

CLASS_STEP, MOST_CLASSES = 100_000, 1_000_000_000
OTHER_CLASSES = 64  # whose centres are compared in addition to those of the first batch

Announce = Callable[[str], None]


@dataclass(frozen=True)
class StepCounts:
    """How many steps: `warm_up`, then `steps` that are timed, `turn` of them per method's turn."""

    warm_up: int = 2
    steps: int = 5
    turn: int = 1

    def __post_init__(self) -> None:
        for name in ("warm_up", "steps", "turn"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)} found, expected at least 1")


@dataclass(frozen=True)
class Agreement:
    """How far a method is from the baseline after the warm-up, which both start alike."""

    loss: float  # largest relative difference of a step's loss
    weight: float  # largest difference of a centre's component over the largest component


@dataclass(frozen=True)
class CaseResult:
    """What was measured of a case."""

    case: HeadCase
    problem: str | None = None  # why it was not measured
    warm_up: list[Step] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    baseline: list[Step] = field(default_factory=list)  # the baseline's, in turn with `steps`
    usage: Usage | None = None
    agreement: Agreement | None = None


class _Warm:
    """A running case after its warm-up, and the centres by then if they can be compared."""

    def __init__(self, running: RunningCase, counts: StepCounts) -> None:
        self.running = running
        self.steps = running.steps(counts.warm_up)
        case = running.case
        self.centres = running.rows(_probed(case)) if comparable(case) else None


def reference_of(cases: Sequence[HeadCase]) -> HeadCase:
    """Return the baseline that cases of one group are compared with.

    In fp32, unless the group has it in another dtype alone.
    """
    baselines = [case for case in cases if case.method == BASELINE]
    in_fp32 = replace(cases[0], method=BASELINE, dtype="fp32")
    return in_fp32 if in_fp32 in baselines or not baselines else baselines[0]


def most_classes(group: Callable[[int], Sequence[HeadCase]], free: int) -> int:
    """Return the most classes with which each case fits `free` bytes, next to the baseline if any.

    `group(classes)` returns the cases of a size. A multiple of 100,000, and at least that.
    """

    def fits(classes: int) -> bool:
        cases = group(classes)
        beside = {reference_of(cases)} & set(cases)
        return all(sum(map(needed_bytes, {case, *beside})) <= free for case in cases)

    sizes = range(CLASS_STEP, MOST_CLASSES + 1, CLASS_STEP)
    return sizes[max(0, bisect_left(sizes, True, key=lambda classes: not fits(classes)) - 1)]


def measure_group(
    cases: Sequence[HeadCase], counts: StepCounts, announce: Announce
) -> list[CaseResult]:
    """Measure cases of one size, rate and number of ranks, each in turn with the baseline.

    The baseline's processes live as long as the group; those of the others are started and ended
    one case after another. A case that does not fit in memory gets a result that says so.
    """
    reference = reference_of(cases)
    others = [case for case in cases if case != reference]
    free = free_bytes(reference.device, reference.ranks)
    results: list[CaseResult] = []
    with ExitStack() as stack:
        baseline: _Warm | None = None
        steps: list[Step] = []
        problem = _too_large([reference, *others[:1]], free)
        if reference in cases and problem is None:
            announce(str(reference))
            try:
                baseline = _Warm(stack.enter_context(RunningCase(reference)), counts)
            except ProcessError as error:
                problem = str(error)
        for case in others:
            together = [case] if baseline is None else [case, reference]
            announce(str(case))
            results.append(_measure(case, baseline, counts, _too_large(together, free)))
            steps += results[-1].baseline
        if reference not in cases:
            return results
        if baseline is None:
            return [CaseResult(reference, problem), *results]
        steps = steps or baseline.running.steps(counts.steps)
        usage = baseline.running.usage()
        return [CaseResult(reference, None, baseline.steps, steps, steps, usage), *results]


def _measure(
    case: HeadCase, baseline: _Warm | None, counts: StepCounts, problem: str | None
) -> CaseResult:
    if problem is not None:
        return CaseResult(case, problem)
    steps: list[Step] = []
    of_baseline: list[Step] = []
    try:
        with RunningCase(case) as running:
            warm = _Warm(running, counts)
            for first in range(0, counts.steps, counts.turn):
                count = min(counts.turn, counts.steps - first)
                if baseline is not None:
                    of_baseline += _take_turn(baseline.running, count)
                steps += _take_turn(running, count)
            usage = running.usage()
    except ProcessError as error:
        return CaseResult(case, str(error))
    agreement = None if baseline is None else _agreement(warm, baseline)
    return CaseResult(case, None, warm.steps, steps, of_baseline, usage, agreement)


def _take_turn(running: RunningCase, count: int) -> list[Step]:
    """Take one step that is not counted, and `count` that are.

    During the other method's turn this one's table left the caches, and the system may have split
    its huge pages; in training the steps follow one another.
    """
    return running.steps(1 + count)[1:]


def _agreement(warm: _Warm, baseline: _Warm) -> Agreement | None:
    if warm.centres is None or baseline.centres is None:
        return None
    pairs = zip(warm.steps, baseline.steps, strict=True)
    difference = (warm.centres - baseline.centres).abs().max() / baseline.centres.abs().max()
    return Agreement(
        max(abs(one.loss - other.loss) / abs(other.loss) for one, other in pairs),
        difference.item(),
    )


def _probed(case: HeadCase) -> torch.Tensor:
    _, labels = global_batch(case, 0)
    others = torch.linspace(0, case.classes - 1, OTHER_CLASSES).long()
    return torch.cat([labels, others])


def free_bytes(device: str, ranks: int) -> int | None:
    """Return the memory that `ranks` ranks find free together; None where it is not known."""
    if device == "cpu":
        return available_bytes(torch.device("cpu"))
    free = in_fresh_process(available_bytes, torch.device("cuda", 0))
    return None if free is None else free * ranks


def _too_large(cases: Sequence[HeadCase], free: int | None) -> str | None:
    need = sum(needed_bytes(case) for case in cases)
    if free is None or need <= free:
        return None
    names = " and ".join(case.method for case in cases)
    return f"not run: {names} need about {need / 1e9:.1f} GB, {free / 1e9:.1f} GB are free"
