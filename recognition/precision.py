"""Arithmetic of the backbone: fp32, TF32, or mixed precision in bf16 or fp16 with a loss scaler.

Only the backbone runs under autocast; the head's margins and softmax statistics are always fp32.
"""

import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch

_DTYPES: dict[str, torch.dtype] = {
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}


BF16_GAIN = 1.2
"""How much faster products in bf16 must be: rows are rounded too, which fp32 spares."""

_BLOCK_ROWS, _MOST_SAMPLES, _REPEATS = 256, 128, 5


@dataclass
class LossScaler:
    """Dynamic loss scale, so that small fp16 gradients do not underflow to zero.

    The scale halves after a step whose gradients overflowed and doubles after `growth_interval`
    consecutive steps without overflow. All ranks agree on whether a step overflowed (see
    `Trainer`), so every rank holds the same scale.
    """

    enabled: bool  # whether the scale changes at all (fp16 only)
    scale: float = field(default=1.0)  # factor of the loss; constant 1 unless `enabled`
    growth_interval: int = 2000
    good_steps: int = 0  # since the scale last changed
    skipped_steps: int = 0  # of the whole run, because of an overflow

    def update(self, overflowed: bool) -> None:
        """Adjust the scale after a step.

        Raises `ValueError` when the scale is so small that it cannot be the cause of the overflow.
        """
        if not self.enabled:
            return
        if overflowed:
            self.scale, self.good_steps = self.scale / 2, 0
            self.skipped_steps += 1
            if self.scale < 2**-14:
                raise ValueError(
                    "fp16 gradients overflow even at a loss scale of 2^-14: the network itself "
                    "produces infinities; train with train.precision: bf16, or a lower "
                    "optimizer.lr"
                )
            return
        self.good_steps += 1
        if self.good_steps == self.growth_interval:
            self.scale, self.good_steps = min(self.scale * 2, 2.0**24), 0

    def state_dict(self) -> dict[str, float]:
        """Return what a resumed run needs."""
        return {
            "scale": self.scale,
            "good_steps": self.good_steps,
            "skipped_steps": self.skipped_steps,
        }

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Take over the values of `state_dict`."""
        self.scale = state["scale"]
        self.good_steps = int(state["good_steps"])
        self.skipped_steps = int(state["skipped_steps"])


@dataclass(frozen=True)
class Precision:
    """A precision by its config name (`fp32`, `tf32`, `bf16`, `fp16`) on a kind of device."""

    name: str
    device: torch.device

    @property
    def caution(self) -> str | None:
        """What to say before training in a precision that the device is slow at."""
        if self.name != "fp16" or self.device.type != "cpu":
            return None
        # CPU time of a training step, one thread, batches of 2 and 32 images, oneDNN with AVX-512:
        # rtiny 10.9, r18 9.1, r50 10.5 times that of fp32 (8.3 limited to AVX2, for rtiny). bf16
        # took 0.5 to 0.6 times that of fp32 with AVX512_BF16, and 7.4 times without.
        return (
            "train.precision is fp16 on a CPU, where a step takes about ten times as long as in "
            "fp32 (measured on an AMD EPYC with AVX-512, torch 2.14): set train.precision: fp32, "
            "or bf16 if the CPU has avx512_bf16 or amx_bf16"
        )

    @property
    def description(self) -> str:
        """The precision in words, with what it is on this device."""
        if self.name == "tf32":
            if self.device.type == "cpu":
                return "tf32, which is fp32 on a CPU"
            return "tf32: convolutions in TF32 where the GPU has it, all else in fp32"
        if self.name == "fp32" and self.device.type == "cuda":
            return "fp32, without TF32"
        return self.name

    def set_switches(self, *, deterministic: bool) -> None:
        """Set torch's process-wide switches of arithmetic, for the backbone and the head.

        fp32 means fp32: TF32, which torch uses in convolutions unless told otherwise, keeps 10 of
        23 bits. Convolutions use it in `tf32` alone, matrix products never: those of the head have
        their own setting.

        cuDNN chooses among its convolutions by timing them once for each shape, and training has
        one shape. The choice may differ from run to run, and some sum in an order that does; with
        `deterministic` it takes repeatable ones by rule.
        """
        # The new names of these switches (torch 2.9) must not be mixed with the old ones.
        torch.backends.cudnn.allow_tf32 = self.name == "tf32"
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.benchmark = self.device.type == "cuda" and not deterministic
        torch.backends.cudnn.deterministic = deterministic

    def autocast(self) -> AbstractContextManager[object]:
        """Return the context that the backbone's forward pass runs in."""
        if self.name not in _DTYPES:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=_DTYPES[self.name])

    def make_scaler(self) -> LossScaler:
        """Return the loss scaler: a constant 1 except in fp16."""
        if self.name == "fp16":
            return LossScaler(enabled=True, scale=2.0**16)
        return LossScaler(enabled=False)


@dataclass(frozen=True)
class HeadPrecision:
    """The arithmetic of the head's matrix products, `fp32` or `bf16`, and why it was chosen."""

    name: str
    reason: str  # in words, the name first
    slow: bool = False  # whether it was asked for, and the other one is faster


def choose_head_precision(
    requested: str,
    device: torch.device,
    *,
    samples: int,
    size: int,
    saved: Mapping[str, Any] | None = None,
) -> HeadPrecision:
    """Return the arithmetic of the head's matrix products.

    On a CPU, `auto` measures both and takes bf16 only if it is faster by `BF16_GAIN`; on a GPU it
    goes by the compute capability.

    Args:
        requested: `fp32`, `bf16` or `auto`.
        device: where the head computes.
        samples: of the products, those of a micro-batch on all ranks.
        size: of an embedding.
        saved: what the checkpoint that the run resumes from says, `{"name": ..., "device": ...}`.
            On a CPU it is kept for `auto`: a measurement need not come out the same again, and
            another machine's would change the numbers in the middle of a run.
    """
    if requested == "fp32":
        return HeadPrecision("fp32", "fp32, as configured")
    before = (saved or {}).get("name")
    other = f"; the checkpoint had {before}" if before else ""
    if device.type == "cuda":
        if requested == "bf16":
            return HeadPrecision("bf16", "bf16, as configured")
        major, minor = torch.cuda.get_device_capability(device)
        if major >= 8:
            return HeadPrecision("bf16", f"bf16: this GPU has tensor cores for it{other}")
        lacking = f"fp32: compute capability {major}.{minor} has no bf16, it begins at 8.0"
        return HeadPrecision("fp32", lacking + other)
    known = before in ("fp32", "bf16") and (saved or {}).get("device") == device.type
    if requested == "auto" and known:
        return HeadPrecision(str(before), f"{before}, as in the checkpoint")
    rates = product_rates(samples, size)
    fp32, bf16 = rates["fp32"], rates["bf16"]
    found = f"{fp32:.0f} GFLOP/s in fp32 and {bf16:.0f} in bf16, measured on one core"
    if requested == "bf16":
        return HeadPrecision("bf16", f"bf16, as configured: {found}", slow=fp32 > bf16 * BF16_GAIN)
    name = "bf16" if bf16 > fp32 * BF16_GAIN else "fp32"
    return HeadPrecision(name, f"{name}: {found}{other}")


def product_rates(samples: int, size: int) -> dict[str, float]:
    """Return GFLOP/s of one CPU core at the head's three kinds of products, by precision.

    They are those of a block of centres: logits, the embeddings' gradient, the centres' gradient;
    the best of `_REPEATS`. Takes some 10 ms. The number of torch's threads is restored.
    """
    samples = min(samples, _MOST_SAMPLES)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as the head's threads have it
    try:
        return {
            name: _product_rate(samples, size, dtype)
            for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16))
        }
    finally:
        torch.set_num_threads(threads)


def _product_rate(samples: int, size: int, dtype: torch.dtype) -> float:
    unit_Nd = torch.full((samples, size), 0.5, dtype=dtype)  # no random numbers: seeds stay
    centre_Rd = torch.full((_BLOCK_ROWS, size), 0.5, dtype=dtype)
    exp_RN = torch.full((_BLOCK_ROWS, samples), 0.5, dtype=dtype)
    seconds = []
    for _ in range(1 + _REPEATS):
        started = time.perf_counter()
        torch.mm(centre_Rd, unit_Nd.T)
        torch.mm(exp_RN.T, centre_Rd)
        torch.mm(exp_RN, unit_Nd)
        seconds.append(time.perf_counter() - started)
    return 3 * 2 * _BLOCK_ROWS * samples * size / min(seconds[1:]) / 1e9
