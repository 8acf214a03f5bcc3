"""The training loop: read it top to bottom.

`Trainer` gets its parts ready-made (`recognition/build.py` makes them from the config) and owns
the order of things: take a batch, run one step, and at the planned steps log, verify and save.
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from backbones import WeightAverage
from recognition.batch_source import BatchSource
from recognition.checkpoint import (
    CheckpointError,
    Checkpoints,
    ShardedRows,
    State,
    read_metadata,
)
from recognition.checkpoint.progress import Progress, check_identity
from recognition.distributed import World, part_sizes
from recognition.failure import StoppedBySignal, StopSignals
from recognition.head import (
    PartialFC,
    SeparateHeads,
    heads_by_name,
    state_of,
    workspace_bytes,
)
from recognition.optimizer import reads_skip, state_tensors, update_parameters
from recognition.plan import BackboneSchedule, LearningRateSchedule, Plan
from recognition.precision import Precision
from recognition.step_flags import StepFigures, StepFlags
from recognition.telemetry import (
    Meter,
    Telemetry,
    VerificationRecord,
    by_rank,
    memory_by_part,
    named_figures,
    peak_memory_bytes,
    progress_line,
)

log = logging.getLogger(__name__)

DATA_WAIT_WARNED = 0.1  # fraction of a log interval spent waiting for data, above which we warn


Verify = Callable[[Callable[[Tensor], Tensor]], Sequence[VerificationRecord]]


class Trainer:
    """Trains a backbone and its head."""

    def __init__(
        self,
        *,
        world: World,
        device: torch.device,  # where the backbone lives and the head computes
        backbone: nn.Module,  # images [b, 3, S, S] to embeddings [b, d]; already on `device`
        head: PartialFC | SeparateHeads,
        optimizer: torch.optim.Optimizer,  # of the backbone
        schedule: LearningRateSchedule,  # for backbone and head alike
        sample_rate: Callable[[int], float] | None = None,  # the head's, by step, for the log
        plan: Plan,
        source: BatchSource,  # this rank's micro-batches
        # From a micro-batch on the host to float input and labels on `device`; it augments.
        prepare: Callable[[Any], tuple[Tensor, Tensor]],
        verify: Verify,  # runs all verification sets, on all ranks, with an embedding function
        precision: Precision,  # of the backbone
        checkpoints: Checkpoints,
        telemetry: Telemetry,
        signals: StopSignals,  # which may ask the run to stop
        global_batch_size: int,  # images per step, over all ranks and micro-batches
        accumulation: int,  # micro-batches per step
        clip_norm: float | None,  # bound of the backbone's gradient norm
        log_every: int,  # steps between records
        histograms_every: int,  # records between histograms
        seed: int,
        compile_backbone: bool,
        identity: Mapping[str, Any],  # what a resumed run must share with this one, by name
        metadata: Mapping[str, Any],  # what else every checkpoint records (config, versions)
        average: WeightAverage | None = None,  # of the backbone's weights
        best_figure: str | None = None,  # as `named_figures` has it; None: the mean accuracy
        backbone_schedule: BackboneSchedule = BackboneSchedule(),  # noqa: B008 (frozen)
    ) -> None:
        self.world, self.device = world, device
        self.backbone, self.head, self.optimizer = backbone, head, optimizer
        self.schedule, self.plan, self.precision = schedule, plan, precision
        self.sample_rate, self.best_figure = sample_rate, best_figure
        self.source, self.prepare, self.verify = source, prepare, verify
        self.checkpoints, self.telemetry, self.signals = checkpoints, telemetry, signals
        self.global_batch_size, self.clip_norm = global_batch_size, clip_norm
        self.log_every, self.histograms_every, self.seed = log_every, histograms_every, seed
        self.identity, self.metadata, self.average = identity, metadata, average
        self.backbone_schedule = backbone_schedule
        micro_batches = part_sizes(global_batch_size, accumulation)
        self.micro_sizes = [part_sizes(images, world.size) for images in micro_batches]
        self.progress = Progress()
        self._warned_of_overflow = False
        self.scaler = precision.make_scaler()
        self.flags = StepFlags(
            world,
            late=reads_skip(optimizer) and not self.scaler.enabled,
            skip_overflow=self.scaler.enabled,
            checkpoints=checkpoints.folder,
        )
        self.model: nn.Module = backbone
        if compile_backbone:
            self.model = torch.compile(backbone)  # type: ignore[assignment]
        if world.size > 1:
            # Buffers (batch-norm statistics) follow rank 0, so there is one truth to save. torch
            # cuts a compiled network at the buckets: gradients travel during its backward pass.
            self.model = DistributedDataParallel(self.model, gradient_as_bucket_view=True)

    def fit(self) -> None:
        """Train from the current step to the end of the plan.

        Raises `TrainingDivergedError` on a NaN or an infinity, `StoppedBySignal` after a step when
        a signal asks for it, and lets every other error through: the caller must then end this
        rank's process, which ends the others.
        """
        progress, plan = self.progress, self.plan
        batches = self.source.batches(progress.step, plan.total_steps)
        meter = Meter()
        while progress.step < plan.total_steps:
            self._step(batches, meter)
            progress.step += 1
            self.telemetry.advance()
            if self._logs_after(progress.step):
                self._log(meter)
                meter = Meter()
            if self.flags.stop_signal and progress.step < plan.total_steps:
                # At once: whoever sent the signal may not wait for a verification.
                self.save(None)
                raise StoppedBySignal(
                    self.flags.stop_signal,
                    f"step {progress.step} is saved: continue with --resume auto",
                )
            paused = time.perf_counter()
            score = self.run_verification() if plan.verify_after(progress.step) else None
            if plan.save_after(progress.step):
                self.save(score)
            meter.paused += time.perf_counter() - paused

    def _step(self, batches: Iterator[Any], meter: Meter) -> None:
        """Run one optimizer step: forward and backward on every micro-batch, then the update."""
        lr = self.schedule.lr_at(self.progress.step)
        # While the backbone is frozen, DistributedDataParallel would wait for its gradients.
        is_frozen = self.backbone_schedule.is_frozen_at(self.progress.step)
        network = self.backbone if is_frozen else self.model
        if self.backbone.training == is_frozen:
            self.backbone.train(not is_frozen)
        self._seed_dropout()
        self.optimizer.zero_grad(set_to_none=True)
        losses = []
        for micro, sizes in enumerate(self.micro_sizes):
            waiting = time.perf_counter()
            batch = next(batches)
            meter.waited += time.perf_counter() - waiting
            images, labels = self.prepare(batch)
            if self.progress.step == 0 and micro == 0:
                self.telemetry.images("data/first_batch", images[:64] * 0.5 + 0.5, 0)
            self.head.prefetch(labels, batch_sizes=sizes)
            with self._synchronise(last=micro == len(self.micro_sizes) - 1):
                with self.precision.autocast(), torch.set_grad_enabled(not is_frozen):
                    embeddings = network(images)
                output = self.head(embeddings.float(), labels, batch_sizes=sizes)
                # Micro-batches may differ in size: each is weighted by its part of the images.
                weight = sum(sizes) / self.global_batch_size
                (output.loss * (weight * self.scaler.scale)).backward()
            losses.append(output.loss.detach() * weight)
            meter.active_classes = output.active_classes
            meter.add(output.figures, weight, output.fractions)
        loss = torch.stack(losses).sum()
        if self._logs_after(self.progress.step + 1):
            # These cost a product and collectives, so only where they are shown.
            meter.last |= self.head.step_figures(self.scaler.scale)
            if self._has_histograms(self.progress.step + 1):
                meter.samples = self.head.sample_figures()
        meter.add({"loss": loss, "gradient_norm": self._update(lr, loss)})
        meter.images += self.global_batch_size
        meter.steps += 1

    def _update(self, lr: float, loss: Tensor) -> Tensor:
        """Update backbone and centres, unless a number is not finite; return the gradient norm."""
        gradients = [p.grad for p in self.backbone.parameters() if p.grad is not None]
        if self.scaler.enabled and gradients:
            torch._foreach_div_(gradients, self.scaler.scale)
        norm = nn.utils.clip_grad_norm_(self.backbone.parameters(), self.clip_norm or torch.inf)
        norm = norm.to(self.device)  # on the CPU where there is no gradient
        gradients_finite = norm.isfinite() & self.head.gradients_finite()
        figures = StepFigures(self.progress.step, lr, loss, norm)
        skip = self.flags.agree(figures, gradients_finite, self.signals.requested)
        # A frozen backbone has no gradients, without which nothing moves a weight.
        update_parameters(self.optimizer, lr * self.backbone_schedule.lr_factor, skip=skip)
        # Where only the device knows `skip`, a step that it skips ends the run, before anything
        # reads the average.
        if self.average is not None and skip is not True:
            self.average.update(self.progress.step)
        self.head.step(lr, grad_scale=self.scaler.scale, skip=skip)
        if self.scaler.enabled:  # else the host may not know `skip` yet
            self.scaler.update(overflowed=bool(skip))
        return norm

    def _synchronise(self, *, last: bool) -> AbstractContextManager[None]:
        """Exchange gradients between ranks only with the last micro-batch of a step."""
        if last or not isinstance(self.model, DistributedDataParallel):
            return nullcontext()
        return self.model.no_sync()

    def _seed_dropout(self) -> None:
        """Make torch's generator a function of (seed, step, rank): a resume needs no RNG state."""
        mixed = hash((self.seed, self.progress.step, self.world.rank))  # ints hash alike everywhere
        torch.manual_seed(mixed % 2**63)

    def run_verification(self) -> float | None:
        """Verify on all ranks, record the results; return what the best checkpoint has most of.

        That is the figure `best_figure`, or else the mean accuracy of the sets that have one; None
        where there is none.
        """
        self.flags.flush()
        self._broadcast_buffers()
        self.backbone.eval()
        results = self._verify(self.backbone)
        self.telemetry.verification(self.progress.step, results)
        figures = named_figures(results)
        if self.average is not None:
            averaged = self._verify(self.average.network)
            self.telemetry.verification(self.progress.step, averaged, averaged=True)
            figures |= named_figures(averaged, averaged=True)
        if self.best_figure is None:
            known = [result.accuracy for result in results if result.accuracy is not None]
            return sum(known) / len(known) if known else None
        return figures.get(self.best_figure)

    def _verify(self, network: nn.Module) -> Sequence[VerificationRecord]:
        def embed(images: Tensor) -> Tensor:
            with self.precision.autocast():
                embeddings: Tensor = network(images)
            return embeddings.float()

        with torch.inference_mode():
            return self.verify(embed)

    def _broadcast_buffers(self) -> None:
        """Give every rank rank 0's batch-norm statistics, as DDP does before each forward pass."""
        if self.world.size > 1:
            averaged = [] if self.average is None else [self.average.network]
            for buffer in (b for network in (self.backbone, *averaged) for b in network.buffers()):
                dist.broadcast(buffer, src=0)

    def save(self, score: float | None) -> None:
        """Write a checkpoint; `score` is what `run_verification` returned at this very step."""
        self._report_data()  # brings its state up to this step
        best = score is not None and score > self.progress.best_accuracy
        if score is not None and best:
            self.progress.best_accuracy = score
        self._write_checkpoint(best=best)

    def _write_checkpoint(self, *, best: bool) -> None:
        self.flags.flush()
        self._broadcast_buffers()
        self.head.forget()
        folder = self.checkpoints.save(self.progress.step, self._state(), best=best)
        by = f"{self.best_figure or 'mean accuracy'} {self.progress.best_accuracy:.4f}"
        log.info("saved %s%s", folder, f" (best so far: {by})" if best else "")

    def _report_data(self) -> Mapping[str, float]:
        """Return the figures about the data; if it ends the run, save first: weights are whole."""
        try:
            return self.source.report(self.progress.step)
        except ValueError:  # on all ranks alike
            self._write_checkpoint(best=False)
            raise

    def restore(self, folder: Path) -> None:
        """Restore everything from a checkpoint, written by any number of ranks.

        Raises `CheckpointError` when it belongs to another kind of run.
        """
        saved = read_metadata(folder)
        progress = Progress.from_json(folder, saved)
        check_identity(folder, saved, self.identity)
        self.checkpoints.load(folder, self._state())
        try:
            self.scaler.load_state_dict(saved["scaler"])
            self.source.restore(saved["source"])
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"{folder / 'run.json'}: scaler or source are not of a run: {error!r}"
            ) from None
        if saved.get("best_figure") != self.best_figure:
            log.info("checkpoint.best has changed: the best checkpoint is chosen anew")
            progress.best_accuracy = 0.0
        self.progress = progress
        self.head.step_count = progress.step
        self.checkpoints.continue_from(folder)

    def _state(self) -> State:
        heads = heads_by_name(self.head)
        replicated = state_tensors(self.backbone, self.optimizer)
        replicated |= {
            f"{n}.running": head.running for n, head in heads.items() if len(head.running)
        }
        rows = {
            f"{name}.{tensor}": ShardedRows(local, head.num_classes, head.shard[0])
            for name, head in heads.items()
            for tensor, local in head.state_rows().items()
        }
        return State(
            backbone=self.backbone.state_dict(),
            average={} if self.average is None else self.average.network.state_dict(),
            replicated=replicated,
            rows=rows,
            metadata={
                "progress": asdict(self.progress),
                "scaler": self.scaler.state_dict(),
                "source": self.source.state(),
                "best_figure": self.best_figure,
                "identity": dict(self.identity),
                "world_size": self.world.size,
                **self.metadata,
            },
        )

    def _logs_after(self, step: int) -> bool:
        return step % self.log_every == 0 or step == self.plan.total_steps

    def _has_histograms(self, step: int) -> bool:
        due = step % (self.log_every * self.histograms_every) == 0
        return due or step == self.plan.total_steps

    def _log(self, meter: Meter) -> None:
        self.flags.flush()
        step, total = self.progress.step, self.plan.total_steps
        means = meter.values()
        if means["quota_overflow"] > 0 and not self._warned_of_overflow:
            self._warned_of_overflow = True
            log.warning(
                "step %d: in some steps the batch's own classes fill the sampling quota, so that "
                "no negative is drawn; raise head.sample_rate, or lower train.global_batch_size",
                step,
            )
        self.progress.seconds += meter.elapsed()
        lr = self.schedule.lr_at(step - 1)
        values: dict[str, Any] = {
            **means,
            "lr": lr,
            **self.backbone_schedule.figures(step - 1, lr),
            **({} if self.sample_rate is None else {"sample_rate": self.sample_rate(step - 1)}),
            "epoch": step / self.plan.steps_per_epoch,
            **meter.rates(),
            "memory_gb": peak_memory_bytes(self.device) / 2**30,
            "memory": self._memory(),
            "loss_scale": self.scaler.scale,
            "skipped_steps": self.scaler.skipped_steps,
            **self._report_data(),
        }
        own = {name: float(values[name]) for name in ("data_wait", "memory_gb")}
        values |= by_rank({"active_classes": meter.active_classes, **own})
        line = progress_line(step, total, values, (total - step) * meter.seconds_per_step())
        self.telemetry.train(step, values, line, meter.read_samples())
        if self.world.is_main and values["data_wait"] > DATA_WAIT_WARNED:
            log.warning(
                "step %d: %.0f%% of the time went to waiting for data; %s",
                step, 100 * values["data_wait"], self.source.hint(),
            )  # fmt: skip

    def _memory(self) -> Mapping[str, float]:
        return memory_by_part(
            self.device,
            backbone=self.backbone,
            average=None if self.average is None else self.average.network,
            optimizer=self.optimizer,
            head_state=state_of(self.head),
            head_workspace=workspace_bytes(self.head),
        )
