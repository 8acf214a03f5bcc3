"""Where the host waits for the GPU, by file and line.

On CUDA torch warns of each wait that it makes. On a CPU, where nothing waits, the operations are
recorded that would: those that hand a number of the device to the host. There, labels that the
host checks count too, and what `Tensor.tolist` reads does not: a GPU decides.
"""

import sys
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from recognition.head import PartialFC, RowAdamW, build_loss
from scripts.benchmarks.common.machine import ROOT
from scripts.machine.step import GOOD, QUICK, SLOW, Context, Verdict
from scripts.machine.training_step import TrainingSteps

MOST_PER_STEP = 1  # of a training step over all classes: the read of its flags
WARM_UP = 3

HEADS: dict[str, dict[str, Any]] = {
    "all": {"sampling": "all"},
    "random_negative": {"sample_rate": 0.2},
    "hard_negative": {"sampling": "hard_negative", "sample_rate": 0.2},
    "host": {"placement": "host", "sample_rate": 0.2},
    "AdamW": {"sampling": "all", "optimizer": RowAdamW()},
    "curricularface": {"sampling": "all", "loss": build_loss("curricularface")},
    "frozen": {"sample_rate": 0.2, "update": "frozen"},
}

# Operations whose result depends on numbers of the device, or is one on the host.
SYNCHRONISING = {
    "aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::equal",
    "aten::is_nonzero", "aten::_unique2", "aten::unique_dim", "aten::unique_consecutive",
}  # fmt: skip


def run(context: Context) -> Verdict:
    """Count the waits of training steps, and of the head alone in some variants."""
    settings = {"training, all classes": ["head.sampling=all"]}
    if context.scale != QUICK:
        settings["training, rate 0.2, 2 micro-batches"] = [
            "head.sampling=random_negative", "head.sample_rate=0.2", "train.accumulation=2",
        ]  # fmt: skip
    found = {name: _of_training(context, overrides) for name, overrides in settings.items()}
    for name, waits in found.items():
        _record(context, name, waits)
    for name, options in HEADS.items():
        _record(context, f"head, {name}", _of_head(context, options))
    (main, *_) = found.values()
    count = sum(main.values())
    if not context.cuda:
        return Verdict(GOOD, "recorded what would make the host wait for a GPU")
    if count <= MOST_PER_STEP:
        return Verdict(GOOD, f"the host waits {count} time(s) in a step over all classes")
    places = ", ".join(f"{place} ({times})" for place, times in main.most_common())
    return Verdict(
        SLOW,
        f"the host waits {count} times in a step over all classes, expected at most "
        f"{MOST_PER_STEP}: {places}",
    )


def _record(context: Context, name: str, waits: Counter[str]) -> None:
    places = ", ".join(f"{place} ({times})" for place, times in waits.most_common())
    context.record(step=name, waits=sum(waits.values()), where=places or "nowhere")


def _of_training(context: Context, overrides: Sequence[str]) -> Counter[str]:
    sizes = ["train.global_batch_size=16", f"data.image_size={32 if context.tiny else 112}"]
    steps = TrainingSteps(
        context.device, context.folder / "waits", [*sizes, *overrides],
        classes=200 if context.tiny else 20_000,
    )  # fmt: skip
    steps.run(1 if context.tiny else WARM_UP)
    waits: Counter[str] = steps.run(1, around=watched(context.device))
    return waits


def _of_head(context: Context, options: dict[str, Any]) -> Counter[str]:
    classes, samples, size = (200, 8, 16) if context.tiny else (20_000, 96, 128)
    head = PartialFC(size, classes, device=context.device, **options)
    x = torch.randn(samples, size, device=context.device).requires_grad_()
    y = torch.randint(0, classes, (samples,), device=context.device)

    def step() -> None:
        head.prefetch(y, [samples])
        torch.autograd.backward(head(x, y, [samples]).loss)
        head.gradients_finite()
        head.step(0.1)

    step()
    waits: Counter[str]
    with watched(context.device)() as waits:
        step()
    return waits


def watched(device: torch.device) -> Callable[[], Any]:
    """Return a context manager that yields a `Counter`, filled in by the end of its block."""
    return _warned if device.type == "cuda" else _Recorder


@contextmanager
def _warned() -> Iterator[Counter[str]]:
    waits: Counter[str] = Counter()

    def show(message: Warning | str, *rest: object, **options: object) -> None:
        if "called a synchronizing" in str(message):
            waits[place()] += 1

    torch.cuda.synchronize()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = show
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield waits
        finally:
            torch.cuda.set_sync_debug_mode("default")


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the operations of this thread that would make the host wait for a GPU."""

    def __enter__(self) -> Any:
        super().__enter__()  # type: ignore[no-untyped-call]
        self.waits: Counter[str] = Counter()
        return self.waits

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        super().__exit__(kind, error, trace)  # type: ignore[no-untyped-call]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func._schema.name in SYNCHRONISING:
            self.waits[place()] += 1
        return func(*args, **kwargs or {})


def place() -> str:
    """Return file and line of the project that led here; torch's where none did."""
    own = Path(__file__)
    frames = [
        frame
        for frame in traceback.extract_stack(sys._getframe(1))
        if Path(frame.filename) != own or frame.name not in ("show", "__torch_dispatch__")
    ]
    for frame in reversed(frames):
        path = Path(frame.filename)
        if path.is_relative_to(ROOT) and path != own and "site-packages" not in path.parts:
            return f"{path.relative_to(ROOT)}:{frame.lineno}"
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}"
