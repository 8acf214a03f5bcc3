"""`PartialFC`: class centres, a sampled part of them, and an exact loss over that part.

Shapes: b samples of this rank, N of the global batch, L classes of this rank, C of all ranks, K
centres per class (1 except for sub-centres), d embedding size.
"""

import time
from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

from recognition.head.batch import check_batch, mask_unknown, normalise
from recognition.head.choices import check_at_least
from recognition.head.losses.base import Loss
from recognition.head.losses.margins import cosface
from recognition.head.online_softmax.global_loss import (
    Backward,
    GlobalLoss,
    GlobalSoftmax,
    attach_backward,
)
from recognition.head.online_softmax.settings import (
    BLOCK_BYTES,
    KEEP_BYTES,
    STAGE_BYTES,
    StreamSettings,
    budget,
    check_parts,
)
from recognition.head.online_softmax.stream import BlockStream
from recognition.head.online_softmax.threads import Threads
from recognition.head.online_softmax.update import CentreUpdate, has_kernels, sgd_with_kernel
from recognition.head.optim.row_optimizers import RowOptimizer, RowSGD, kept_as
from recognition.head.output import HeadOutput
from recognition.head.placement.build import (
    PLACEMENTS,
    create_coasting,
    create_collectives,
    create_table,
)
from recognition.head.placement.table import TableRows
from recognition.head.sampling.build import build_sampler
from recognition.head.sampling.rule import TableReader
from recognition.head.sampling.selection import Selection


class PartialFC(nn.Module):
    """Margin softmax over sampled class centres (Partial FC, arXiv 2010.05222) and its relatives.

    Three independent choices: where the centres live (`placement`), which of them take part in a
    step (`sampling`), and what is computed over them (`loss`). With every class sampled and a
    margin softmax, the loss on any number of ranks equals, for the global batch,

        F.cross_entropy(scale * margin(normalize(x) @ normalize(w).T), y)

    with the margin on each sample's target class; else the same over the active classes. It is
    computed in blocks of centres (see `online_softmax`), so memory beyond the centres and their
    momentum is O(N·d + block). One step is

        output = head(embeddings, labels)
        output.loss.backward()
        head.step(lr)

    **Gradients.** `loss` is the mean over the global batch. The gradient of this rank's embeddings
    is that of the global mean times the number of ranks, so that averaging parameter gradients
    over the ranks, as DistributedDataParallel does, gives exactly the gradient of the global mean,
    with unequal batches too. Centres get the gradient of the global mean itself, during `step`,
    block by block; none is ever stored. Several forward and backward passes before one `step` add
    up. Scaling the loss scales all gradients; every rank must scale alike.

    **Collectives.** See `placement/collectives.py`. All ranks must call alike, with embeddings
    that need a gradient on all or on none. With sharded classes `step` makes none.

    **State.** `table` holds `weight` [L, K·d] and the optimizer's tensors [L, ...] as buffers, not
    parameters: the head has its own row optimizer, and no other optimizer, gradient clipping or
    DistributedDataParallel should see them. Do not wrap the head in DistributedDataParallel.
    `step_count` completes the state: the active set of the random rules is a pure function of
    (seed, step_count, class id, labels).

    Args:
        embedding_size: d.
        num_classes: C, over all ranks. Rank r holds `shard_range(C, ranks, r)`, `head.shard`;
            the last ranks may hold fewer or none. All of them where classes are replicated.
        placement: `sharded` over the ranks; `replicated` on each (data parallel, the baseline);
            `host`: sharded, in CPU memory; only active rows are sent to the device.
        sampling: a name in `SAMPLINGS`.
        sample_rate: fraction of the classes in the active set, in (0, 1]; for the rules that use
            one. Safe at hundreds of thousands of classes, costly at low false accept rates with
            few. Or a function that returns the fraction of a step, numbered as `step_count`: a
            pure one, so that a resumed run replays it.
        rebuild_every: steps between two indexes of `hash_forest`.
        hard_share: fraction of the quota that hardness decides, of `hard_negative`; the rest is
            drawn at random.
        loss: such as `cosface(0.4)`, the default; see `LOSSES`.
        scale: factor s of the cosines.
        inter_class_filter: negatives with a cosine above it are left out of the softmax
            altogether (Partial FC, CVPR 2022); None leaves none out.
        storage: how centres are kept, a name in `STORAGE`; momentum of no stated dtype likewise.
        seed: of the initial centres, the active sets and stochastic rounding.
        optimizer: of the rows; default SGD with momentum 0.9 and weight decay 5e-4.
        update: `coasting`: a centre that takes no part in a step moves on by its momentum and
            decays, as if its gradient were zero, like every row of a dense optimizer;
            `frozen`: it stays as it is, bit for bit (arXiv 2010.05222, section 3.2).
        block_bytes: memory budget of a block's temporaries; default by device, `BLOCK_BYTES`.
        keep_bytes: memory budget for keeping a step's exponentials, which saves a quarter of the
            arithmetic when they fit; default by device, `KEEP_BYTES`; 0 keeps none.
        stage_bytes: device memory for rows sent ahead by `prefetch`, for `host`.
        matmul_dtype: torch.float32, or torch.bfloat16 for the block products alone. The target
            cosine, the statistics and the update are float32 always.
        group: the ranks that train the table; default all, or none where no group was started.
        device: of the embeddings, and of the table unless it is on the host; default CPU.

    Raises `ValueError` for a setting out of its range, an unknown name, or two that do not go
    together.
    """

    running: Tensor

    def __init__(
        self, embedding_size: int, num_classes: int, *, placement: str = "sharded",
        sampling: str = "random_negative", sample_rate: float | Callable[[int], float] = 0.1,
        rebuild_every: int = 100, hard_share: float = 0.5, loss: Loss | None = None,
        scale: float = 64.0, inter_class_filter: float | None = None, storage: str = "fp32",
        seed: int = 0, optimizer: RowOptimizer | None = None, update: str = "coasting",
        block_bytes: int | None = None, keep_bytes: int | None = None,
        stage_bytes: int = STAGE_BYTES, matmul_dtype: torch.dtype = torch.float32,
        group: dist.ProcessGroup | None = None, device: torch.device | str | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        # A tensor's device has an index: `cuda` alone would differ from that of every embedding.
        device = torch.empty(0, device="cpu" if device is None else device).device
        self.embedding_size, self.num_classes = embedding_size, num_classes
        self.step_count = 0
        self.loss = cosface() if loss is None else loss
        self.optimizer = kept_as(storage, RowSGD() if optimizer is None else optimizer)
        check_parts(embedding_size, num_classes, self.loss, self.optimizer)
        budgets = budget(block_bytes, BLOCK_BYTES, device), budget(keep_bytes, KEEP_BYTES, device)
        settings = StreamSettings(scale, inter_class_filter, *budgets, matmul_dtype)
        self._collectives = create_collectives(placement, group)
        self.shard = self._collectives.shard(num_classes)
        sgd = sgd_with_kernel(self.optimizer, self.loss, self._collectives)
        lean = sgd is not None and not self.loss.has_curriculum
        # Ranks must add up blocks in one order, and a table in CPU memory sends them one by one.
        parallel = not (PLACEMENTS[placement].on_host or self._collectives.sums_blocks)
        by_torch = not has_kernels(device, storage, self.optimizer)
        threads = Threads(device, parallel=parallel, by_torch=by_torch)
        self.table = create_table(
            placement, self.shard, embedding_size * self.loss.centres_per_class, seed=seed,
            optimizer=self.optimizer, device=device, stage_bytes=stage_bytes, storage=storage,
            halves=lean and threads.ops.fuses(settings.plain_transform, matmul_dtype),
        )  # fmt: skip
        in_blocks = parallel and sgd is not None and threads.ops.makes_up
        self._coasting = create_coasting(
            update, self.table, self.optimizer, threads.ops, seed, self.shard[0],
            in_blocks=in_blocks,
        )  # fmt: skip
        stream = BlockStream(self.table, embedding_size, settings, threads, lean)
        options = {"rebuild_every": rebuild_every, "hard_share": hard_share}
        sampler = build_sampler(sampling, self.replicated, **options)
        reader = TableReader(self.table, embedding_size)
        self._selection = Selection(sampler, reader, self.shard, num_classes, sample_rate, seed)
        self._softmax = GlobalSoftmax(stream, self.shard, self.loss, self._collectives, seed)
        first_class = self.shard[0]
        self._update = CentreUpdate(
            stream, self.optimizer, sgd, self._collectives, first_class, seed
        )
        self._active_classes = 0
        self.register_buffer("running", torch.tensor(self.loss.initial, device=device))

    @property
    def weight(self) -> Tensor:
        """This rank's class centres, float32 [L, K·d]: the table's tensor itself.

        A copy in another `storage`, and where there are two halves: in bfloat16 on CUDA. All rows
        make up for the steps that they missed.
        """
        self.settle()
        return self.table.centres(0, len(self.table.weight))

    @property
    def replicated(self) -> bool:
        """Whether every rank holds all classes."""
        return self._collectives.replicated

    @property
    def device(self) -> torch.device:
        """Where the head computes."""
        return self.table.device

    def forward(
        self, embeddings: Tensor, labels: Tensor, batch_sizes: Sequence[int] | None = None
    ) -> HeadOutput:
        """Return the loss of the global batch.

        Without gradients (`torch.no_grad()`) this takes one product per block instead of two.

        Args:
            embeddings: float32, bfloat16 or float16 [b, d] on the head's device; not normalised.
                b may differ between ranks, and be 0 where another rank has samples.
            labels: class ids, integer [b], on the CPU or the head's device.
            batch_sizes: b of every rank, when the caller knows it; saves a tiny all-gather and,
                on a GPU, a wait of the host.

        Raises `ValueError` for a wrong shape, dtype or device, for labels outside `[0, C)` and
        for batch sizes that do not fit. Labels on a GPU cannot be checked without a wait: one
        out of range there makes the loss NaN.
        """
        check_batch(embeddings, labels, self.embedding_size, self.device, self.num_classes)
        label_b, sizes = self._labels_and_sizes(labels, batch_sizes)
        with torch.autocast(embeddings.device.type, enabled=False):
            unit_bd, norm_b = normalise(embeddings)
            known_bd = unit_bd.detach()
            if labels.device.type != "cpu":
                known_bd = mask_unknown(known_bd, label_b, self.num_classes)
            batch = self._collectives.gather_batch(known_bd, norm_b.detach(), label_b, sizes)
            started = time.perf_counter()
            active, batch = self._selection(self.step_count, batch, labels)
            selection_seconds = time.perf_counter() - started
            with self._softmax.stream.threads.alone():
                result = self._softmax(
                    batch, active.rows, self.running, self.step_count,
                    keep=torch.is_grad_enabled(), with_grad=unit_bd.requires_grad,
                    draw=self._selection.draw(self.step_count, batch, self._collectives),
                )  # fmt: skip
        loss, self._active_classes = result.loss, result.centre_loss.rows.count
        if torch.is_grad_enabled():
            self.running.copy_(result.running)
            loss = attach_backward(unit_bd, norm_b, loss, self._backward(result, sizes))
        return HeadOutput(
            loss=loss,
            active_classes=self._active_classes,
            figures={
                # Mean target cosine, before the margin: the "average cosine distance" of the
                # Partial FC paper.
                "cosine_positive": result.mean_cosine,
                # Distinct classes in the global batch.
                "positive_classes": active.positive_classes,
                # Whether they alone reached the sampling quota.
                "quota_overflow": active.overflow,
                # Wall-clock time of choosing the active classes, or of waiting for `prefetch`.
                "selection_seconds": selection_seconds,
            },
        )

    @torch.no_grad()
    def prefetch(self, labels: Tensor, batch_sizes: Sequence[int] | None = None) -> None:
        """Begin to choose the next batch's active rows, for `placement="host"` to send them too.

        Call it when the labels are known, before the backbone's forward pass, which then hides
        both. On every rank alike, after `step`; the next forward pass must be given the same
        labels, or what was prepared is dropped: on a GPU the same tensor, as values would have to
        be waited for. Does nothing for sampling rules that use embeddings, and for `all` unless
        rows are sent. Arguments are those of `forward`. Collective: one all-gather of labels.
        """
        if self._selection.can_prefetch:
            label_b, sizes = self._labels_and_sizes(labels, batch_sizes)
            label_N = self._collectives.gather_labels(label_b, sizes)
            self._selection.prefetch(self.step_count, label_N, labels)

    @torch.no_grad()
    def step(
        self, lr: float, *, grad_scale: float | Tensor = 1.0, skip: bool | Tensor = False,
        no_samples: bool = False,
    ) -> None:  # fmt: skip
        """Update the sampled centres with their gradients, clear those, and count the step.

        A class that no forward pass since the last step sampled moves on by its momentum and
        decays, or stays as it is; see `update`.

        Args:
            lr: learning rate, finite and at least 0.
            grad_scale: what the loss was multiplied by; gradients are divided by it.
            skip: drop the gradients and change no centre, as after an overflow in float16. The
                step counts all the same, so the next active set is a new one. A bool, or a bool
                scalar on the head's device, for which the host does not wait where SGD with
                momentum has a kernel (on CUDA).
            no_samples: no batch of this step had a sample for this head: all centres are updated
                as those that were not sampled. On all ranks alike.

        Raises `ValueError` when `lr` is out of range, or when there is no gradient, unless
        `no_samples` says so, or one although it does.
        """
        check_at_least("lr", lr)
        rows = self._update.apply(lr, grad_scale, self.step_count, skip=skip, no_samples=no_samples)
        self.table.finish()
        self.table.release()
        if self._coasting is not None and rows is not None:
            self._coasting.step(rows, lr, self.step_count, skip)
        self._update.clear()
        self.step_count += 1

    @torch.no_grad()
    def gradients_finite(self) -> Tensor:
        """Return whether the gradients that `step` will use are finite: bool scalar tensor.

        Costs next to nothing. A NaN or infinity in any rank's embeddings or centres shows on all
        ranks; reduce over the ranks all the same before acting on it.
        """
        return self._update.finite()

    @torch.no_grad()
    def step_figures(self, grad_scale: float | Tensor = 1.0) -> dict[str, Tensor]:
        """Return figures for the log that cost too much for every step, by name: scalars.

        Call it between the backward passes and `step`, on all ranks: it makes every block's
        gradient once more than `step` does, and all-reduces single numbers. A new figure is one
        line here. `grad_scale` is that of `step`. Raises `ValueError` when there is no gradient.
        """
        active = torch.tensor(self._active_classes, device=self.device)  # in the last forward pass
        active = self._collectives.sum_over_classes(active)
        return {"gradient_norm_centres": self._update.norm(grad_scale), "active_classes": active}

    @torch.no_grad()
    def sample_figures(self) -> dict[str, Tensor]:
        """Return a number of each sample of the step, by name: float32 [n], of all ranks.

        Call it where `step_figures` is called; it costs one product. See `sample_figures.py`.
        """
        return self._update.sample_figures()

    @torch.no_grad()
    def gradient_norm(self, grad_scale: float | Tensor = 1.0) -> Tensor:
        """Return the norm of the gradient of `step`, without weight decay, over all ranks."""
        return self._update.norm(grad_scale)

    def state_tensors(self) -> dict[str, Tensor]:
        """Return this rank's rows of the state by name, each [L, ...], rows by class id.

        They are the tensors themselves, in the form that is kept, but for a weight in two halves
        (see `weight`). To load, write to `state_rows` and set `step_count`.
        """
        return {name: rows.read(0, rows.shape[0]) for name, rows in self.state_rows().items()}

    def state_rows(self) -> dict[str, TableRows]:
        """Return the same rows to be read and written a part at a time, as checkpoints do.

        Before that, `settle`: between this and the next step they are all there is to know.
        """
        self.settle()
        return self.table.state_rows()

    @torch.no_grad()
    def settle(self) -> None:
        """Have all rows make up for the steps that they missed; see `update`."""
        if self._coasting is not None:
            self._coasting.settle_all()

    def forget(self) -> None:
        """Drop what sampling keeps from step to step outside the state: `hash_forest`'s index.

        Call it whenever the state is saved: the run that goes on then chooses the same classes as
        one that resumes, which does not have it either.
        """
        self._selection.sampler.forget()

    def get_extra_state(self) -> dict[str, int]:
        """Return what `state_dict` holds besides the tensors; called before it reads the table."""
        self.settle()
        return {"step_count": self.step_count}

    def set_extra_state(self, state: dict[str, int]) -> None:
        """Restore what `get_extra_state` returned; called before the table is loaded."""
        self.settle()
        self.step_count = state["step_count"]

    def extra_repr(self) -> str:
        """Describe the head in one line, for `repr`."""
        return (
            f"{self.embedding_size}, {self.num_classes}, shard={self.shard}, {self.loss}, "
            f"{self.optimizer}, {self._softmax.stream.settings}"
        )

    def _labels_and_sizes(
        self, labels: Tensor, batch_sizes: Sequence[int] | None
    ) -> tuple[Tensor, Sequence[int]]:
        label_b = labels.to(device=self.device, dtype=torch.int64).contiguous()
        return label_b, self._collectives.batch_sizes(len(label_b), self.device, batch_sizes)

    def _backward(self, result: GlobalLoss, sizes: Sequence[int]) -> Backward:
        """Return the loss's backward pass: keep the centres' part, return the embeddings'."""
        step, collectives = self.step_count, self._collectives

        def backward(grad_loss: Tensor) -> tuple[Tensor | None, Tensor | None]:
            if self.step_count != step:
                raise ValueError(
                    f"backward of step {step}'s loss after the centres moved on to step "
                    f"{self.step_count}: call loss.backward() before head.step()"
                )
            self._update.losses.append(result.centre_loss.scaled(grad_loss))
            if result.unit_gradient is None:
                return None, None
            factor = grad_loss * collectives.size
            by_unit = collectives.scatter_gradient(result.unit_gradient * factor, sizes)
            if not self.loss.has_norm_gradient:
                return by_unit, None
            return by_unit, collectives.local_part(result.norm_gradient * factor, sizes)

        return backward
