"""Arithmetic of the backbone: fp32, TF32, or mixed precision in bf16 or fp16 with a loss scaler.

Only the backbone runs under autocast; the head's margins and softmax statistics are always fp32.
"""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch

_DTYPES: dict[str, torch.dtype] = {
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}


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


def choose_head_precision(requested: str, device: torch.device) -> tuple[str, str]:
    """Return the arithmetic of the head's matrix products, `fp32` or `bf16`, and why in words.

    `requested` is one of these, or `auto`: bf16 where the device is fast at it.
    """
    if requested != "auto":
        return requested, f"{requested}, as configured"
    if device.type != "cuda":
        return "fp32", "fp32, because many CPUs are slower in bf16"
    major, minor = torch.cuda.get_device_capability(device)
    if major >= 8:
        return "bf16", "bf16, because this GPU has tensor cores for it"
    return "fp32", f"fp32, because compute capability {major}.{minor} has no bf16: it begins at 8.0"
