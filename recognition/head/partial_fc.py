"""`PartialFC`: class centres cut over the ranks, an exact margin softmax over an active part.

Shapes: b samples of this rank, N of the global batch, L classes of this rank, C of all ranks, d
embedding size.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

from recognition.head.centres import initial_centres
from recognition.head.checks import check_batch, check_batch_sizes
from recognition.head.choices import choose
from recognition.head.exchange import Exchange
from recognition.head.margins import Margin, cosface
from recognition.head.objective import margin_softmax
from recognition.head.row_sgd import RowSGD
from recognition.head.rows import RowSet, local_rows, union
from recognition.head.sampling import SAMPLINGS, ActiveSet, SampleRequest
from recognition.head.settings import BLOCK_BYTES, KEEP_BYTES, StreamSettings
from recognition.head.sharded_loss import Backward, ShardedLoss, attach_backward, sharded_loss
from recognition.head.streaming import EPSILON, CentreLoss, centre_gradients
from recognition.sharding import shard_range


@dataclass(frozen=True)
class HeadOutput:
    """What a forward pass of the head gives.

    The host waits for a GPU to learn how many classes a sampling rule took, and for nothing else.

    Attributes:
        loss: float32 scalar, mean over the global batch, the same on every rank; carries the
            gradient.
        cosine_positive: float32 scalar, mean over the global batch of the cosine between a
            sample and its own centre, before the margin (the paper's average cosine distance).
        active_classes: classes of this rank that took part.
        positive_classes: int64 scalar, distinct classes in the global batch.
        overflow: bool scalar, whether the positives alone reached the sampling quota.
    """

    loss: torch.Tensor
    cosine_positive: torch.Tensor
    active_classes: int
    positive_classes: torch.Tensor
    overflow: torch.Tensor


class PartialFC(nn.Module):
    """Margin softmax over class centres that are cut over the ranks (arXiv 2010.05222).

    With every class sampled, the loss on any number of ranks equals, for the global batch,

        F.cross_entropy(scale * margin(normalize(x) @ normalize(w).T), y)

    with the margin on each sample's own class; else the same over the active classes. It is made
    in blocks of centres (see `streaming`), so memory beyond the centres and their momentum is
    O(N·d + block). One step is

        output = head(embeddings, labels)
        output.loss.backward()
        head.step(lr)

    **Gradients.** `loss` is the mean over the global batch. The gradient handed to this rank's
    embeddings is that of the global mean times the number of ranks, so that averaging parameter
    gradients over the ranks, as DistributedDataParallel does, gives exactly the gradient of the
    global mean, with unequal batches too. Centres get the gradient of the global mean itself,
    during `step`, block by block; none is ever stored. Several forward and backward passes
    before one `step` add up. Scaling the loss scales all gradients; every rank must scale alike.

    **Collectives.** Forward: one all-gather of embeddings and labels, one of three numbers a
    sample (and one of batch sizes, if they are not given). Backward: one reduce-scatter. `step`:
    none. All ranks must call alike, with embeddings that need a gradient on all or on none.

    **State.** `weight` [L, d] and `momentum` [L, d] are buffers, not parameters: the head has its
    own row optimizer, and no other optimizer, gradient clipping or DistributedDataParallel should
    see them. Do not wrap the head into DistributedDataParallel. `step_count` completes the state:
    the active set is a pure function of (seed, step_count, class id, labels).

    Args:
        embedding_size: d.
        num_classes: C, over all ranks. Rank r holds `shard_range(C, ranks, r)`, `head.shard`;
            the last ranks may hold fewer or none.
        sampling: a name in `SAMPLINGS`.
        sample_rate: share of the classes in the active set, in (0, 1]; for `random_negative`.
            Safe at hundreds of thousands of classes, costly at low false accept rates with few.
        margin: a function of the own cosines, such as `cosface(0.4)`; see `margins`.
        scale: factor s of the cosines.
        inter_class_filter: negatives with a cosine above it are left out of the softmax
            altogether (Partial FC, CVPR 2022); None leaves none out.
        seed: of the initial centres and of the active sets.
        momentum: of the row optimizer.
        weight_decay: of the row optimizer, on sampled rows only.
        block_bytes: memory budget of a block's temporaries; default by device, `BLOCK_BYTES`.
        keep_bytes: memory budget for keeping a step's block products, which saves a quarter of
            the arithmetic when they fit; default by device, `KEEP_BYTES`; 0 keeps none.
        matmul_dtype: torch.float32, or torch.bfloat16 for the block products alone. The own
            cosine, the statistics and the update are float32 always.
        group: the ranks that share the table; default all, or none where no group was started.
        device: of the table; default CPU.

    Raises `ValueError` for a setting out of its range or an unknown name.
    """

    weight: torch.Tensor
    momentum: torch.Tensor

    def __init__(
        self,
        embedding_size: int,
        num_classes: int,
        *,
        sampling: str = "random_negative",
        sample_rate: float = 0.1,
        margin: Margin | None = None,
        scale: float = 64.0,
        inter_class_filter: float | None = None,
        seed: int = 0,
        momentum: float = 0.9,
        weight_decay: float = 5e-4,
        block_bytes: int | None = None,
        keep_bytes: int | None = None,
        matmul_dtype: torch.dtype = torch.float32,
        group: dist.ProcessGroup | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        device = torch.device("cpu" if device is None else device)
        if embedding_size < 1 or num_classes < 1:
            raise ValueError(
                f"embedding_size {embedding_size} and num_classes {num_classes} found, expected "
                "both to be at least 1"
            )
        if not 0.0 < sample_rate <= 1.0:
            raise ValueError(f"sample_rate: {sample_rate} found, expected 0 < sample_rate <= 1")
        self.embedding_size = embedding_size
        self.num_classes = num_classes
        self.sample_rate = sample_rate
        self.seed = seed
        self.step_count = 0
        self.optimizer = RowSGD(momentum, weight_decay)
        self._sample = choose(SAMPLINGS, sampling, "sampling")
        margin = cosface(0.4) if margin is None else margin
        self._objective = partial(margin_softmax, margin=margin, scale=scale)
        self._how = StreamSettings(
            scale,
            inter_class_filter,
            _by_device(BLOCK_BYTES, device) if block_bytes is None else block_bytes,
            _by_device(KEEP_BYTES, device) if keep_bytes is None else keep_bytes,
            matmul_dtype,
        )
        self._exchange = Exchange.over(group)
        self.shard = shard_range(num_classes, self._exchange.size, self._exchange.rank)
        self.register_buffer("weight", initial_centres(*self.shard, embedding_size, seed, device))
        self.register_buffer("momentum", torch.zeros_like(self.weight))
        self._pending: list[CentreLoss] = []

    def forward(
        self,
        embeddings: torch.Tensor,
        labels: torch.Tensor,
        batch_sizes: Sequence[int] | None = None,
    ) -> HeadOutput:
        """Return the loss of the global batch.

        Without gradients (`torch.no_grad()`) this takes one product a block instead of two.

        Args:
            embeddings: float32, bfloat16 or float16 [b, d] on the head's device; not normalised.
                b may differ between ranks, and be 0 where another rank has samples.
            labels: global class ids, integer [b], on the CPU or the head's device.
            batch_sizes: b of every rank, when the caller knows it; saves a tiny all-gather and,
                on a GPU, a wait of the host.

        Raises `ValueError` for a wrong shape, dtype or device, for labels outside `[0, C)` and
        for batch sizes that do not fit. Labels on a GPU cannot be looked at without a wait: one
        out of range there makes the loss NaN.
        """
        check_batch(embeddings, labels, self.weight, self.num_classes)
        exchange, batch = self._exchange, len(labels)
        label_b = labels.to(device=embeddings.device, dtype=torch.int64).contiguous()
        sizes = exchange.batch_sizes(batch, label_b.device) if batch_sizes is None else batch_sizes
        check_batch_sizes(sizes, batch, exchange.rank, exchange.size)
        with torch.autocast(embeddings.device.type, enabled=False):
            unit_bd = F.normalize(embeddings.float(), dim=1, eps=EPSILON)
            known_bd = unit_bd.detach()
            if labels.device.type != "cpu":
                unknown_b1 = ((label_b < 0) | (label_b >= self.num_classes)).unsqueeze(1)
                known_bd = known_bd.masked_fill(unknown_b1, math.nan)
            unit_Nd, label_N = exchange.gather_batch(known_bd, label_b, sizes)
            active = self._active_set(label_N)
            result = sharded_loss(
                unit_Nd,
                local_rows(label_N, *self.shard),
                self.weight,
                active.rows,
                self._objective,
                self._how,
                exchange,
                keep=torch.is_grad_enabled(),
                with_embedding_gradient=unit_bd.requires_grad,
            )
        loss = result.loss
        if torch.is_grad_enabled():
            loss = attach_backward(unit_bd, loss, self._backward(result, sizes))
        return HeadOutput(
            loss=loss,
            cosine_positive=result.cosine_positive,
            active_classes=active.rows.count,
            positive_classes=active.positive_classes,
            overflow=active.overflow,
        )

    @torch.no_grad()
    def step(
        self, lr: float, *, grad_scale: float | torch.Tensor = 1.0, skip: bool = False
    ) -> None:
        """Give the sampled centres their gradient and move them; clear it; count the step.

        Centres, momentum and decay of a class that no forward pass since the last step sampled
        stay as they are, bit for bit. Makes no collective.

        Args:
            lr: learning rate, finite and at least 0.
            grad_scale: what the loss was multiplied by; gradients are divided by it.
            skip: drop the gradients and change no centre, as after an overflow in float16. The
                step counts all the same, so the next active set is a new one.

        Raises `ValueError` when `lr` is out of range, or when there is nothing to step with.
        """
        if not (math.isfinite(lr) and lr >= 0.0):
            raise ValueError(f"lr: {lr} found, expected a finite number of at least 0")
        if not skip:
            for rows, start, stop, weight_Rd, gradient_Rd in self._gradients(grad_scale):
                velocity_Rd = rows.read(self.momentum, start, stop)
                self.optimizer.update(weight_Rd, velocity_Rd, gradient_Rd, lr)
                rows.write(self.momentum, start, stop, velocity_Rd)
                rows.write(self.weight, start, stop, weight_Rd)
        self._pending.clear()
        self.step_count += 1

    @torch.no_grad()
    def gradients_finite(self) -> torch.Tensor:
        """Return whether the gradients that wait for `step` are finite: bool scalar tensor.

        Every gradient of a centre is a sum of unit vectors with the few numbers a sample that
        are looked at here, so this costs next to nothing. A NaN or infinity in any rank's
        embeddings or centres shows on all ranks; reduce over the ranks all the same before
        acting on it.
        """
        finite = torch.ones((), dtype=torch.bool, device=self.weight.device)
        for loss in self._pending:
            finite &= loss.negative.isfinite().all() & loss.positive.isfinite().all()
        return finite

    @torch.no_grad()
    def gradient_norm(self, grad_scale: float | torch.Tensor = 1.0) -> torch.Tensor:
        """Return the norm of the gradient that waits for `step`, over all ranks: scalar.

        For logging now and then: it makes every block's gradient once more than `step` does, and
        one all-reduce of a number. Weight decay is not part of it.

        Raises `ValueError` when no gradient waits.
        """
        total = torch.zeros((), device=self.weight.device)
        for _, _, _, _, gradient_Rd in self._gradients(grad_scale):
            total += gradient_Rd.square().sum()
        return self._exchange.sum(total).sqrt()

    def state_tensors(self) -> dict[str, torch.Tensor]:
        """Return this rank's shards of the state by name, each [L, ...], rows by class id.

        They are the tensors themselves: to load, copy into them and set `step_count`.
        """
        return {"weight": self.weight, "momentum": self.momentum}

    def get_extra_state(self) -> dict[str, int]:
        """Return what `state_dict` holds besides the tensors."""
        return {"step_count": self.step_count}

    def set_extra_state(self, state: dict[str, int]) -> None:
        """Take over what `get_extra_state` gave."""
        self.step_count = state["step_count"]

    def extra_repr(self) -> str:
        """Describe the head in one line, for `repr`."""
        return f"{self.embedding_size}, {self.num_classes}, shard={self.shard}, {self._how}"

    def _active_set(self, label_N: torch.Tensor) -> ActiveSet:
        start, stop = self.shard
        return self._sample(
            SampleRequest(
                labels=label_N,
                start=start,
                stop=stop,
                num_classes=self.num_classes,
                rate=self.sample_rate,
                seed=self.seed,
                step=self.step_count,
            )
        )

    def _backward(self, result: ShardedLoss, sizes: Sequence[int]) -> Backward:
        """Return what the loss's backward pass does: note the centres' part, give embeddings."""
        step = self.step_count

        def backward(grad_loss: torch.Tensor) -> torch.Tensor | None:
            if self.step_count != step:
                raise ValueError(
                    f"backward of step {step}'s loss after the centres moved on to step "
                    f"{self.step_count}: call loss.backward() before head.step()"
                )
            centre = result.centre_loss
            self._pending.append(
                replace(
                    centre,
                    negative=centre.negative * grad_loss,
                    positive=centre.positive * grad_loss,
                )
            )
            if result.embedding_gradient is None:
                return None
            factor = grad_loss * self._exchange.size
            return self._exchange.scatter_gradient(result.embedding_gradient * factor, sizes)

        return backward

    def _gradients(
        self, grad_scale: float | torch.Tensor
    ) -> Iterator[tuple[RowSet, int, int, torch.Tensor, torch.Tensor]]:
        """Yield `(rows, start, stop, weight_Rd, gradient_Rd)` of what waits, block by block."""
        if not self._pending:
            raise ValueError(
                "no gradient waits for the centres: call head(...).loss.backward() before"
            )
        losses = [
            replace(
                loss,
                negative=loss.negative / grad_scale,
                positive=loss.positive / grad_scale,
            )
            for loss in self._pending
        ]
        rows = union([loss.rows for loss in losses], len(self.weight), self.weight.device)
        with torch.autocast(self.weight.device.type, enabled=False):
            for block in centre_gradients(self.weight, rows, losses, self._how):
                yield rows, *block


def _by_device(budgets: dict[str, int], device: torch.device) -> int:
    return budgets.get(device.type, budgets["cpu"])
