"""Two small steps of the head in each of its variants, on the device and on the CPU."""

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import torch
from torch import Tensor

from recognition.head import (
    LOSSES,
    PLACEMENTS,
    SAMPLINGS,
    PartialFC,
    RowAdamW,
    RowSGD,
    build_loss,
)
from scripts.machine.step import FAILED, GOOD, QUICK, SLOW, Context, Verdict

STEPS, LR = 2, 0.5  # two, so that momentum takes part
RATE = 0.3
LOSS_OPTIONS: dict[str, dict[str, Any]] = {"d_softmax": {"batch_rate": 0.5}}

# Largest relative difference of loss, gradient, moved centres and state. In fp32, sums in another
# order, multiplied by a scale of 64. A bf16 product rounds a logit by up to 2^-8 of 64 and more,
# and bf16 storage a number by 2^-8, int8 by 1/127 of a row's largest; the same bits decide in which
# direction, but a last bit may decide otherwise: these find a wrong formula, not a lost bit.
FP32, ROUNDED, BF16 = 1e-3, 2e-2, 6e-2

BF16_ROWS = RowSGD(momentum_dtype=torch.bfloat16)
OPTIMIZERS = {
    "Nesterov": RowSGD(nesterov=True),
    "no momentum": RowSGD(momentum=0.0),
    "bf16 momentum": BF16_ROWS,
    "Nesterov, bf16 momentum": RowSGD(nesterov=True, momentum_dtype=torch.bfloat16),
    "AdamW": RowAdamW(eps=1e-3),  # a smaller epsilon lets a gradient's last bit decide on signs
}


@dataclass(frozen=True)
class Variant:
    """A head, by the arguments of `PartialFC` that differ from the defaults."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    size: int = 128  # d
    samples: int = 96  # N

    @property
    def bound(self) -> float:
        """The difference that rounding explains."""
        if self.options.get("matmul_dtype") == torch.bfloat16:
            return BF16
        momentum = getattr(self.options.get("optimizer"), "momentum_dtype", None)
        return ROUNDED if "storage" in self.options or momentum is not None else FP32


def variants() -> Iterator[Variant]:
    """Yield every variant, those that recipes use first."""
    low = {"matmul_dtype": torch.bfloat16}
    placements = sorted(PLACEMENTS, key=lambda name: name != "sharded")
    for placement, sampling in product(placements, SAMPLINGS):
        if sampling == "hash_forest" and importlib.util.find_spec("faiss") is None:
            continue
        if placement == "replicated" and sampling != "all":
            continue
        options = {"placement": placement, "sampling": sampling}
        yield Variant(f"{placement}, {sampling}", options)
        if sampling in ("all", "random_negative"):
            yield Variant(f"{placement}, {sampling}, bf16", options | low)
    for placement, (name, optimizer) in product(("sharded", "host"), OPTIMIZERS.items()):
        yield Variant(f"{placement}, {name}", {"placement": placement, "optimizer": optimizer})
    recipe = {"optimizer": BF16_ROWS, **low}
    yield Variant("sharded, bf16, bf16 momentum", recipe)
    yield Variant("host, bf16, bf16 momentum", recipe | {"placement": "host"})
    for placement, storage in product(("sharded", "host"), ("bf16", "int8")):
        options = {"placement": placement, "storage": storage}
        yield Variant(f"{placement}, {storage} storage", options)
    yield Variant("sharded, bf16, int8 storage", {"storage": "int8", **low})
    for name in LOSSES:
        yield Variant(f"loss {name}", {"loss": build_loss(name, **LOSS_OPTIONS.get(name, {}))})
    yield Variant("nothing kept", {"sampling": "all", "keep_bytes": 0})
    yield Variant("nothing kept, bf16", {"sampling": "all", "keep_bytes": 0, **low})
    yield Variant("scale 200", {"sampling": "all", "scale": 200.0})
    yield Variant("inter-class filter", {"sampling": "all", "inter_class_filter": 0.1})
    yield Variant("frozen", {"update": "frozen"})
    yield Variant("d 100, N 97", size=100, samples=97)
    yield Variant("d 100, N 97, bf16", low, size=100, samples=97)
    yield Variant("d 1100", {"sampling": "all"}, size=1100, samples=33)
    yield Variant("one sample", samples=1)


def run(context: Context) -> Verdict:
    """Compare each variant; a failure of one does not end the others."""
    classes = 300 if context.tiny else 6_000
    torch.set_num_threads(1 if context.tiny else torch.get_num_threads())
    every = list(variants())
    chosen = every[::4] if context.scale == QUICK else every
    wrong: list[str] = []
    for number, variant in enumerate(chosen):
        if context.left() < 5.0:
            words = f"{number} of {len(chosen)} variants compared in time"
            return _verdict(wrong, len(chosen)) if wrong else Verdict(SLOW, words)
        try:
            worst = compare(variant, classes, context.device)
        except Exception as error:
            context.record(variant=variant.name, difference=f"{type(error).__name__}: {error}")
            wrong.append(variant.name)
            if "CUDA error" in str(error):
                raise  # the context is lost: nothing after this works
            continue
        context.record(variant=variant.name, difference=worst, allowed=variant.bound)
        if not worst <= variant.bound:
            wrong.append(variant.name)
    return _verdict(wrong, len(chosen))


def _verdict(wrong: list[str], count: int) -> Verdict:
    if wrong:
        return Verdict(
            FAILED, f"{len(wrong)} of {count} variants differ from the CPU: {'; '.join(wrong)}"
        )
    return Verdict(GOOD, f"{count} variants of the head agree with the CPU")


def compare(variant: Variant, classes: int, device: torch.device) -> float:
    """Return the largest relative difference from fp32 on the CPU; infinite for other classes."""
    in_fp32 = {"matmul_dtype": torch.float32, "placement": "sharded"}
    expected = steps(variant, classes, torch.device("cpu"), in_fp32)
    found = steps(variant, classes, device, {})
    if not torch.equal(found.pop("active"), expected.pop("active")):
        return float("inf")
    return max(_difference(found[name], tensor) for name, tensor in expected.items())


def steps(
    variant: Variant, classes: int, device: torch.device, override: dict[str, Any]
) -> dict[str, Tensor]:
    """Take the steps and return losses, gradients, how far centres moved, and their state."""
    options = {"sample_rate": RATE, **variant.options, **override}
    head = PartialFC(variant.size, classes, device=device, **options)
    before = head.weight.detach().cpu().clone()
    generator = torch.Generator().manual_seed(0)
    losses, active, gradients = [], [], []
    for _ in range(STEPS):
        x = torch.randn(variant.samples, variant.size, generator=generator)
        x = x.to(head.device).requires_grad_()
        y = torch.randint(0, classes, (variant.samples,), generator=generator)
        y[: variant.samples // 4] = y[0]  # one class many times
        head.prefetch(y.to(head.device), [len(y)])
        output = head(x, y.to(head.device), [len(y)])
        torch.autograd.backward(output.loss)
        head.step(LR)
        assert x.grad is not None
        losses.append(output.loss.detach().cpu())
        active.append(output.active_classes)
        gradients.append(x.grad.cpu())
    state = {name: tensor.cpu() for name, tensor in head.state_tensors().items()}
    del state["weight"]
    state["moved"] = head.weight.cpu() - before
    state |= {"loss": torch.stack(losses), "gradient": torch.cat(gradients)}
    return state | {"active": torch.tensor(active)}


def _difference(found: Tensor, expected: Tensor) -> float:
    error = (found.double() - expected.double()).norm()
    return float(error / expected.double().norm().clamp_min(1e-30))
