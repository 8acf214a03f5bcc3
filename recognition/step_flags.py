"""What the ranks agree on in every step, so that no number that is not finite reaches a weight.

Three flags: is the loss finite, are the gradients, and which signal asks the run to stop. Weights
are guarded in one of two ways:

* The host reads the flags before it updates anything. It waits for the device in every step, which
  costs nothing on a CPU, and which fp16 needs, as the next step's loss scale depends on the flags.
* `late`: the optimizer and the head read a flag on the device, and leave everything as it is if it
  says so. The host reads the flags one step later, before it updates anything in that next step,
  so that it never waits for the step that it has just started.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from recognition.checkpoint import latest
from recognition.distributed import World


class TrainingDivergedError(ValueError):
    """A NaN or an infinity, raised on every rank; neither its step nor a later one changed weights.

    `step` is the number of that step, from 0.
    """

    def __init__(self, step: int, message: str) -> None:
        super().__init__(message)
        self.step = step


@dataclass(frozen=True)
class StepFigures:
    """What the error says about a step. Tensors stay on the device until then."""

    step: int
    lr: float
    loss: Tensor  # scalar
    gradient_norm: Tensor  # scalar, of the backbone


@dataclass(frozen=True)
class _Unread:
    """The flags of a step on their way to the host."""

    figures: StepFigures
    flags: Tensor  # int32 [3] on the host, valid once `copied` has happened
    copied: torch.cuda.Event | None  # None on a CPU

    def read(self) -> list[int]:
        if self.copied is not None:
            self.copied.synchronize()
        return self.flags.tolist()


class StepFlags:
    """Agrees on the flags of a step, and stops the run on all ranks alike when they say so."""

    def __init__(
        self,
        world: World,
        *,
        late: bool,  # whether the host reads flags one step later
        skip_overflow: bool,  # fp16: skip a step whose gradients are not finite, instead of raising
        checkpoints: Path,  # the folder that the error names the last good checkpoint of
    ) -> None:
        assert not (late and skip_overflow), "the loss scale depends on this step's flags"
        self.stop_signal = 0  # what any rank was asked to stop by, as far as the host knows
        self._world, self._late, self._skip_overflow = world, late, skip_overflow
        self._checkpoints = checkpoints
        self._unread: _Unread | None = None

    def agree(
        self, figures: StepFigures, gradients_finite: Tensor, requested: int
    ) -> bool | Tensor:
        """Return whether this step must not change anything: bool, or `late` bool scalar tensor.

        Collective. `requested` is the number of the signal that asks this rank to stop, 0 if none.
        Raises `TrainingDivergedError`, if `late` for the step before.
        """
        loss = figures.loss
        # The signal is negative, so that the least of all three counts.
        signal = torch.full_like(loss, -requested)
        flags = torch.stack([loss.isfinite(), gradients_finite, signal]).int()
        if self._world.size > 1:
            dist.all_reduce(flags, op=dist.ReduceOp.MIN)
        if not self._late:
            return not self._obey(figures, flags.tolist())
        self.flush()
        copied = None
        on_host = flags.to("cpu", non_blocking=True)  # to pinned memory, so without a wait
        if flags.is_cuda:
            # `blocking` waits without keeping a core busy.
            copied = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
            copied.record(torch.cuda.current_stream(flags.device))
        self._unread = _Unread(figures, on_host, copied)
        return (flags[:2] == 0).any()

    def flush(self) -> None:
        """Read flags that were not read yet: weights are good, and stay, after this.

        Call it before anything is recorded, verified or saved, on all ranks. Raises
        `TrainingDivergedError`.
        """
        if self._unread is not None:
            self._obey(self._unread.figures, self._unread.read())
            self._unread = None

    def _obey(self, figures: StepFigures, flags: list[int]) -> bool:
        """Return whether gradients are finite. Raises `TrainingDivergedError`."""
        loss_finite, gradients_finite, signal = flags
        self.stop_signal = -signal
        if not loss_finite or not (gradients_finite or self._skip_overflow):
            found = latest(self._checkpoints)  # all numbers of a checkpoint are finite
            kept = f"the last good checkpoint is {found}" if found else "there is no checkpoint yet"
            raise TrainingDivergedError(
                figures.step,
                f"step {figures.step}: loss {figures.loss.item():.4g}, gradient norm of the "
                f"backbone {figures.gradient_norm.item():.4g}, at lr {figures.lr:.4g}: not finite "
                "on at least one rank. No weight has changed since this step began, only the "
                f"statistics of batch norm; {kept}. Usual causes: optimizer.lr too high for "
                "train.global_batch_size, no warm-up, fp16.",
            )
        return bool(gradients_finite)
