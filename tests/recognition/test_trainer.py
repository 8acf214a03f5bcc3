"""The loop itself: what a step that is not finite may change, and when the host waits."""

import signal
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from recognition.distributed import current
from recognition.failure import StoppedBySignal
from recognition.head import RowAdamW, RowOptimizer, SeparateHeads
from recognition.step_flags import TrainingDivergedError
from recognition.telemetry import Meter
from tests.distributed_harness import run_ranks
from tests.launch import ROOT
from tests.recognition.small_trainer import (
    STEPS,
    assert_equal,
    small_trainer,
    weights_before_each_step,
    weights_of,
)

BAD = 3
ROW_OPTIMIZERS: dict[str, Callable[[], RowOptimizer | None]] = {
    "sgd": lambda: None,
    "adamw": RowAdamW,
}


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("bad", [0, BAD, STEPS - 1])
def test_a_step_that_is_not_finite_changes_no_weight_and_neither_does_a_later_one(
    tmp_path: Path, late: bool, optimizer: str, bad: int
) -> None:
    trainer = small_trainer(
        tmp_path, late=late, optimizer=optimizer, row_optimizer=ROW_OPTIMIZERS[optimizer](), bad=bad
    )
    noted = weights_before_each_step(trainer)
    with pytest.raises(TrainingDivergedError) as raised:
        trainer.fit()
    assert raised.value.step == bad
    # The host has gone on for at most one step, and never beyond the end.
    assert len(noted) == min(bad + 1 + late, STEPS)
    for later in (*noted[bad + 1 :], weights_of(trainer)):
        assert_equal(later, noted[bad])


@pytest.mark.parametrize(("log_every", "save_every"), [(1, 100), (100, 1)])
def test_nothing_is_recorded_or_saved_of_a_step_before_its_flags_are_read(
    tmp_path: Path, log_every: int, save_every: int
) -> None:
    trainer = small_trainer(
        tmp_path, late=True, bad=BAD, log_every=log_every, save_every=save_every
    )
    noted = weights_before_each_step(trainer)
    with pytest.raises(TrainingDivergedError) as raised:
        trainer.fit()
    assert (raised.value.step, len(noted)) == (BAD, BAD + 1)
    saved = sorted(folder.name for folder in (tmp_path / "checkpoints").glob("step_*"))
    assert saved == ([f"step_{step:08d}" for step in range(1, BAD + 1)] if save_every == 1 else [])
    with pytest.raises(TrainingDivergedError):  # whoever goes on all the same
        trainer.save(None)


def test_a_good_run_is_the_same_whenever_the_flags_are_read(tmp_path: Path) -> None:
    late = small_trainer(tmp_path / "late", late=True)
    late.fit()
    # The same fused optimizer, whose flag the host reads.
    at_once = small_trainer(tmp_path / "at once", late=True)
    at_once.flags._late = False
    at_once.fit()
    assert_equal(weights_of(late), weights_of(at_once))


@pytest.mark.parametrize("late", [False, True])
def test_several_heads_resume_to_the_bit_and_keep_theirs_at_a_step_that_is_not_finite(
    tmp_path: Path, late: bool
) -> None:
    make = partial(
        small_trainer, tmp_path, late=late, heads={"a": 8, "b": 1, "c": 2}, accumulation=2,
        sampling="random_negative", save_every=BAD,
    )  # fmt: skip
    whole = make()
    head = whole.head
    assert isinstance(head, SeparateHeads)
    trained, step = [], head.step

    def noting(*arguments: Any, **options: Any) -> None:
        trained.append(set(head._trained))
        step(*arguments, **options)

    head.step = noting  # type: ignore[method-assign]
    whole.fit()
    assert {frozenset("abc"), frozenset("ac")} <= set(map(frozenset, trained))

    resumed = make()
    resumed.restore(tmp_path / "checkpoints" / f"step_{BAD:08d}")
    resumed.fit()
    assert_equal(weights_of(resumed), weights_of(whole))
    assert {"head.a.weight", "head.b.momentum", "head.c.weight"} <= weights_of(whole).keys()

    broken = make(bad=BAD)
    noted = weights_before_each_step(broken)
    with pytest.raises(TrainingDivergedError):
        broken.fit()
    assert_equal(weights_of(broken), noted[BAD])


def stops_on_two_ranks(folder: Path) -> tuple[int, int, int, int]:
    """Return the step of a NaN on rank 1 and how many were begun; a signal to it, and the step."""
    trainer = small_trainer(
        folder / "nan", late=True, world=current(), bad=BAD, bad_rank=1, save_every=2
    )
    noted = weights_before_each_step(trainer)
    with pytest.raises(TrainingDivergedError) as diverged:
        trainer.fit()
    for later in (*noted[BAD + 1 :], weights_of(trainer)):
        assert_equal(later, noted[BAD])
    trainer = small_trainer(folder / "signal", late=True, world=current())
    if trainer.world.rank == 1:
        trainer.signals.requested = signal.SIGUSR1
    with pytest.raises(StoppedBySignal) as stopped:
        trainer.fit()
    return diverged.value.step, len(noted), stopped.value.number, trainer.progress.step


@pytest.mark.slow
def test_ranks_stop_at_the_same_step(tmp_path: Path) -> None:
    # A save is due after step 3, which reads its flags at once. The signal of step 0 is read in
    # step 1, which is finished.
    assert run_ranks(stops_on_two_ranks, 2, tmp_path) == [(BAD, BAD + 1, signal.SIGUSR1, 2)] * 2


class TwoLarge(nn.Module):
    """A network of two layers whose gradients do not fit one of DDP's buckets, its first of 1 MiB.

    torch compiles no frame of its own containers, so this is none of them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Linear(5, 60_000), nn.BatchNorm1d(60_000)
        self.last = nn.Linear(60_000, 7)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.last(self.norm(self.first(inputs)))  # type: ignore[no-any-return]


def compiled_on_two_ranks(folder: Path) -> tuple[int, list[str]]:
    """Return how many graphs were compiled, and the names in the state; check the weights."""
    parts: list[Any] = []

    def count(graph: Any, _: Any) -> Any:
        parts.append(graph)
        return graph.forward

    compile_with = partial(torch.compile, backend=count)
    trainers = []
    for is_compiled in (True, False):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch, "compile", compile_with)
            trainers.append(
                small_trainer(
                    folder / str(is_compiled), late=True, world=current(), accumulation=2,
                    compile_backbone=is_compiled, backbone=TwoLarge, save_every=STEPS,
                )
            )  # fmt: skip
        trainers[-1].fit()
    compiled, plain = map(weights_of, trainers)
    for name, tensor in plain.items():
        torch.testing.assert_close(compiled[name], tensor, msg=name)
    return len(parts), list(trainers[0].backbone.state_dict())


@pytest.mark.slow
def test_a_compiled_network_is_cut_where_its_gradients_are_sent(tmp_path: Path) -> None:
    # torch cuts at DDP's buckets what it compiles inside of DDP too, so that the gradients of the
    # last layers travel while those of the first are computed.
    for graphs, names in run_ranks(compiled_on_two_ranks, 2, tmp_path):
        assert graphs == 2
        assert names == list(TwoLarge().state_dict())


class Waits(TorchFunctionMode):
    """Collects the files of this project in which the host asks a tensor for its numbers."""

    ASKING = (
        "item", "tolist", "numpy", "cpu", "nonzero", "argwhere", "unique", "masked_select", "equal",
        "allclose", "__bool__", "__int__", "__float__", "__index__",
    )  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        self.files: set[str] = set()

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if getattr(function, "__name__", "") in self.ASKING:
            names = [Path(frame.filename) for frame in traceback.extract_stack()]
            own = [name.relative_to(ROOT) for name in names if name.is_relative_to(ROOT)]
            self.files.add(str([name for name in own if name.parts[0] != "tests"][-1]))
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    # The plain AdamW counts on the host.
    ("late", "optimizer"), [(False, "sgd"), (True, "sgd"), (True, "adamw")]
)  # fmt: skip
def test_the_loop_waits_for_the_flags_or_for_nothing(
    tmp_path: Path, late: bool, optimizer: str
) -> None:
    trainer = small_trainer(tmp_path, late=late, optimizer=optimizer, ema=0.9)
    batches, meter = trainer.source.batches(0, STEPS), Meter()
    trainer._step(batches, meter)
    trainer.flags.flush()  # a step's flags were copied when the next one reads them
    trainer.progress.step += 1
    with Waits() as waits:
        trainer._step(batches, meter)
    # The head has tests of its own, and reads labels in order to check them on a CPU.
    of_loop = {name for name in waits.files if not name.startswith("recognition/head/")}
    assert of_loop == (set() if late else {"recognition/step_flags.py"})
