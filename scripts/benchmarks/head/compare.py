"""Measures methods beside the usual approach, their steps taken in turn."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

import torch

from scripts.benchmarks.common.memory import available_bytes
from scripts.benchmarks.head.cases import Case, global_batch
from scripts.benchmarks.head.methods import REFERENCE, comparable, needed_bytes
from scripts.benchmarks.head.processes import Account, CaseError, Running, Step, in_fresh_process

OTHER_CLASSES = 64  # looked at beside those of the first batch when centres are compared

Say = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """How many steps: to warm up, then timed ones, in turns of so many and one more a method."""

    warm_up: int = 2
    steps: int = 5
    turn: int = 1

    def __post_init__(self) -> None:
        for name in ("warm_up", "steps", "turn"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)} found, expected at least 1")


@dataclass(frozen=True)
class Agreement:
    """How far a method is from the usual approach after the warm-up, which both start alike.

    Attributes:
        loss: largest relative difference of a step's loss.
        weight: largest difference of a centre's component over the largest component.
    """

    loss: float
    weight: float


@dataclass(frozen=True)
class Row:
    """What is known of a case; `problem` says why it was not measured, if it was not.

    `reference` are the usual approach's steps in turn with these, `first` the warm-up's.
    """

    case: Case
    problem: str | None = None
    first: list[Step] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    reference: list[Step] = field(default_factory=list)
    account: Account | None = None
    agreement: Agreement | None = None


@dataclass
class _Warm:
    """Running processes after their warm-up, and what they had reached by then.

    `centres` is None where there is nothing to compare them with.
    """

    running: Running
    first: list[Step]
    centres: torch.Tensor | None

    @classmethod
    def up(cls, running: Running, plan: Plan) -> "_Warm":
        first = running.steps(plan.warm_up)
        case = running.case
        return cls(running, first, running.rows(_probed(case)) if comparable(case) else None)


def measure_group(cases: Sequence[Case], plan: Plan, say: Say) -> list[Row]:
    """Measure cases of one size, rate and number of ranks, each in turn with the usual approach.

    That one's processes stay up for the whole group; the others' come and go, one case at a time.
    What cannot run for want of memory gets a row that says so.
    """
    reference = replace(cases[0], method=REFERENCE, dtype="fp32")
    others = [case for case in cases if case != reference]
    free = _free(reference)
    rows: list[Row] = []
    with ExitStack() as stack:
        usual: _Warm | None = None
        taken: list[Step] = []
        problem = _too_large([reference, *others[:1]], free)
        if reference in cases and problem is None:
            try:
                say(_name(reference))
                usual = _Warm.up(stack.enter_context(Running(reference)), plan)
            except CaseError as error:
                problem = str(error)
        for case in others:
            beside = [] if usual is None else [reference]
            say(_name(case))
            row = _measure(case, usual, plan, _too_large([case, *beside], free))
            taken += row.reference
            rows.append(row)
        if reference not in cases:
            return rows
        if usual is None:
            return [Row(reference, problem), *rows]
        taken = taken or usual.running.steps(plan.steps)
        account = usual.running.account()
        return [Row(reference, None, usual.first, taken, taken, account), *rows]


def _measure(case: Case, usual: _Warm | None, plan: Plan, problem: str | None) -> Row:
    if problem is not None:
        return Row(case, problem)
    steps: list[Step] = []
    reference: list[Step] = []
    try:
        with Running(case) as running:
            warm = _Warm.up(running, plan)
            for first in range(0, plan.steps, plan.turn):
                count = min(plan.turn, plan.steps - first)
                if usual is not None:
                    reference += _turn(usual.running, count)
                steps += _turn(running, count)
            account = running.account()
    except CaseError as error:
        return Row(case, str(error))
    agreement = None if usual is None else _agreement(warm, usual)
    return Row(case, None, warm.first, steps, reference, account, agreement)


def _turn(running: Running, count: int) -> list[Step]:
    """Take one step that is not counted, and `count` that are.

    While the other method had its turn, this one's table left the caches, and the system may have
    taken its large pages apart; in training the steps follow one another.
    """
    return running.steps(1 + count)[1:]


def _agreement(warm: _Warm, usual: _Warm) -> Agreement | None:
    if warm.centres is None or usual.centres is None:
        return None
    pairs = zip(warm.first, usual.first, strict=True)
    difference = (warm.centres - usual.centres).abs().max() / usual.centres.abs().max()
    return Agreement(
        max(abs(one.loss - other.loss) / abs(other.loss) for one, other in pairs),
        difference.item(),
    )


def _probed(case: Case) -> torch.Tensor:
    _, labels = global_batch(case, 0)
    others = torch.linspace(0, case.classes - 1, OTHER_CLASSES).long()
    return torch.cat([labels, others])


def _free(case: Case) -> int | None:
    if case.device == "cpu":
        return available_bytes(torch.device("cpu"))
    free = in_fresh_process(available_bytes, torch.device("cuda", 0))
    return None if free is None else free * case.ranks


def _too_large(cases: Sequence[Case], free: int | None) -> str | None:
    need = sum(needed_bytes(case) for case in cases)
    if free is None or need <= free:
        return None
    names = " and ".join(case.method for case in cases)
    return f"not run: {names} need about {need / 1e9:.1f} GB, {free / 1e9:.1f} GB are free"


def _name(case: Case) -> str:
    return (
        f"{case.method}, {case.classes:,} classes, rate {case.rate:g}, {case.dtype}, "
        f"{case.ranks} rank{'s' if case.ranks > 1 else ''}"
    )
