"""A training step of a ResNet-50 in several forms, next to a plain PyTorch step."""

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import repeat

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones import build_backbone
from data.build import build_loader
from data.datasets.dataset import open_dataset
from data.loading.loader import Batch
from recognition.config_file import load_config
from recognition.distributed import World
from scripts.benchmarks.common.machine import ROOT
from scripts.benchmarks.common.turns import median_ratio, take_turns
from scripts.machine.step import FULL, GOOD, QUICK, SLOW, TINY, Context, Verdict
from scripts.machine.training import demo_data
from scripts.machine.training_step import TrainingSteps, random_batch

LEAST_RATIO = 1.5  # times the plain step
LEAST_WITH_LOADER = 0.9  # of the step without
PLAIN, OURS = "plain PyTorch", "ours"
WITH_LOADER, COMPILED = "ours, with the loader", "ours, compiled"


@dataclass(frozen=True)
class _Sizes:
    backbone: str
    classes: int  # MS1MV3's in a full check
    batch: int
    side: int
    precision: str
    steps: int  # in a turn
    rounds: int


_SIZES = {
    FULL: _Sizes("r50", 93_431, 128, 112, "bf16", 10, 3),
    QUICK: _Sizes("r50", 93_431, 128, 112, "bf16", 5, 2),
    TINY: _Sizes("rtiny", 50, 4, 32, "fp32", 1, 1),
}


class PlainStep:
    """As such a network is usually trained: autocast, dense softmax, one SGD over everything."""

    def __init__(self, device: torch.device, sizes: _Sizes, *, channels_last: bool) -> None:
        layout = torch.channels_last if channels_last else torch.contiguous_format
        backbone = build_backbone(sizes.backbone, embedding_size=512, image_size=sizes.side)
        self._backbone = backbone.to(device).to(memory_format=layout).train()
        self._weight = nn.Parameter(0.01 * torch.randn(sizes.classes, 512, device=device))
        parameters = [*self._backbone.parameters(), self._weight]
        self._optimizer = torch.optim.SGD(parameters, 0.01, momentum=0.9, weight_decay=5e-4)
        batch = random_batch(sizes.batch, sizes.side, sizes.classes).to(device)
        self._images, self._labels = batch.images.contiguous(memory_format=layout), batch.labels
        self._device, self._low = device, sizes.precision != "fp32"

    def step(self) -> None:
        """Take one step."""
        images = self._images.float().sub_(127.5).div_(127.5)
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._low):
            x: Tensor = self._backbone(images)
            cosine = F.linear(F.normalize(x), F.normalize(self._weight)).float()
            margin = torch.zeros_like(cosine).scatter_(1, self._labels.unsqueeze(1), 0.4)
            loss = F.cross_entropy(64.0 * (cosine - margin), self._labels)
        self._optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        self._optimizer.step()

    def seconds_per_step(self, steps: int) -> float:
        """Take steps, and return the time of each, the GPU's included."""
        _synchronize(self._device)
        started = time.perf_counter()
        for _ in range(steps):
            self.step()
        _synchronize(self._device)
        return (time.perf_counter() - started) / steps


Form = PlainStep | TrainingSteps
MakeForm = Callable[[], Form]


def run(context: Context) -> Verdict:
    """Measure every form but the compiled one."""
    sizes = _SIZES[context.scale]
    settings, batch = _settings(sizes), _on_device(context, sizes)
    ours = partial(TrainingSteps, context.device, context.folder / "network", classes=sizes.classes)
    forms: dict[str, MakeForm] = {
        PLAIN: partial(PlainStep, context.device, sizes, channels_last=False),
        OURS: partial(ours, settings, batches=repeat(batch)),
        WITH_LOADER: lambda: ours(settings, batches=_loaded(context, settings)),
    }
    if context.scale != QUICK:
        nchw = partial(ours, settings, batches=repeat(batch), channels_last=False)
        forms["plain PyTorch, channels_last"] = partial(
            PlainStep, context.device, sizes, channels_last=True
        )
        forms["ours, without channels_last"] = nchw
    ratios = _measure(context, sizes, forms)
    if context.tiny:
        return Verdict(GOOD, "every form trains at toy sizes")
    words = [f"{ratios[OURS]:.2f} times as fast as the plain step, expected {LEAST_RATIO}"]
    kept = ratios[WITH_LOADER] / ratios[OURS]
    words.append(f"{kept:.0%} of it with the loader, expected {LEAST_WITH_LOADER:.0%}")
    slow = ratios[OURS] < LEAST_RATIO or kept < LEAST_WITH_LOADER
    return Verdict(SLOW if slow else GOOD, f"{sizes.backbone}: {'; '.join(words)}")


def compiled(context: Context) -> Verdict:
    """Measure the step with `train.compile`, which takes long to begin."""
    sizes = _SIZES[context.scale]
    settings, batch = _settings(sizes), _on_device(context, sizes)
    ours = partial(
        TrainingSteps, context.device, context.folder / "compiled", classes=sizes.classes
    )
    forms: dict[str, MakeForm] = {
        PLAIN: partial(PlainStep, context.device, sizes, channels_last=False),
        OURS: partial(ours, settings, batches=repeat(batch)),
        COMPILED: partial(ours, [*settings, "train.compile=true"], batches=repeat(batch)),
    }
    ratios = _measure(context, sizes, forms)
    gain = ratios[COMPILED] / ratios[OURS]
    words = f"{gain:.2f} times as fast as without, expected more than 1"
    return Verdict(SLOW if gain < 1.0 else GOOD, f"{sizes.backbone}, compiled: {words}")


def _measure(context: Context, sizes: _Sizes, makers: dict[str, MakeForm]) -> dict[str, float]:
    """Measure forms in turn and record them; return the speed of each over the plain step's."""
    torch.backends.cudnn.benchmark = True  # for all of them alike
    forms: dict[str, Form] = {}
    for name, make in makers.items():
        started = time.perf_counter()
        forms[name] = make()
        forms[name].seconds_per_step(1 if context.tiny else 3)  # compiles, and chooses algorithms
        print(f"{name}: ready after {time.perf_counter() - started:.1f} s", flush=True)
    measured = take_turns(
        list(forms.values()), lambda form, _: form.seconds_per_step(sizes.steps), sizes.rounds
    )
    seconds = dict(zip(forms, measured, strict=True))
    ratios = {name: median_ratio(seconds[PLAIN], times) for name, times in seconds.items()}
    for name, times in seconds.items():
        context.record(
            step=name, ms=1e3 * min(times), images_per_s=sizes.batch / min(times),
            times_plain=ratios[name],
        )  # fmt: skip
    return ratios


def _settings(sizes: _Sizes) -> list[str]:
    return [
        f"backbone.name={sizes.backbone}", "backbone.embedding_size=512", "head.sampling=all",
        "head.scale=64", f"head.precision={sizes.precision}", f"train.precision={sizes.precision}",
        f"train.global_batch_size={sizes.batch}", f"data.image_size={sizes.side}",
    ]  # fmt: skip


def _on_device(context: Context, sizes: _Sizes) -> Batch:
    """Return a batch on the device already: steps on it need no data from the host."""
    return random_batch(sizes.batch, sizes.side, sizes.classes).to(context.device)


def _loaded(context: Context, settings: list[str]) -> Iterator[Batch]:
    """Yield batches of the demo's data, as a run of these settings loads them, for ever."""
    folder = demo_data(context)
    config = load_config(ROOT / "configs" / "demo.yaml", [*settings, f"data.train={folder}"])
    loader = build_loader(config, open_dataset(folder), World(), context.device)
    with closing(loader.batches(0, 1 << 30)) as batches:  # type: ignore[type-var]
        yield from batches


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
