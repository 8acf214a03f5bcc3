"""Saves and loads a run's state, on any number of ranks.

One checkpoint is one folder, `checkpoints/step_00000400/`:

    backbone.pt      the backbone's weights under their published names, a plain state dict
    backbone_ema.pt  with `train.ema`, their moving average, in the same form
    state/           class-sharded tensors by global class id and optimizer state, written by every
                     rank through torch.distributed.checkpoint; loads on any number of ranks
    run.json         step, counters, scaler, versions, the resolved config; size and hash of each
                     file

A folder gets its final name only when it is whole and on disk, so an interrupted save is never
mistaken for a checkpoint. Loading compares every byte with its hash first.
"""

import logging
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, TypeVar, cast

import torch
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict_loader import load as load_sharded
from torch.distributed.checkpoint.state_dict_saver import save as save_sharded

from backbones import read_weights
from recognition.checkpoint import folders
from recognition.checkpoint.manifest import (
    AVERAGED_WEIGHTS,
    RAW_WEIGHTS,
    CheckpointError,
    FileDigest,
    damage,
    digesting,
    digests,
    read_metadata,
    write_metadata,
)
from recognition.checkpoint.rows import ShardedRows
from recognition.checkpoint.sharded import Planner, Reader, Writer
from recognition.distributed import World, gather
from recognition.failure import describe_os_error, on_main

log = logging.getLogger(__name__)

Result = TypeVar("Result")
Value = TypeVar("Value")


@dataclass(frozen=True)
class State:
    """What is saved and loaded together."""

    backbone: Mapping[str, Tensor]  # its state dict, equal on all ranks
    replicated: Mapping[str, Tensor]  # other tensors that are equal on all ranks, by name
    rows: Mapping[str, ShardedRows]  # tables by name: each rank has some of the rows, or all
    metadata: Mapping[str, Any]  # step, counters, config and so on: JSON values
    # The state dict of the averaged backbone, equal on all ranks; empty if there is none.
    average: Mapping[str, Tensor] = field(default_factory=dict)


class Checkpoints:
    """Writes, finds and loads the checkpoints of one run folder, in its folder `checkpoints`.

    The latest `keep` are kept, in addition to the best one.
    """

    def __init__(self, output: Path, *, world: World, keep: int) -> None:
        self.folder = output / "checkpoints"
        self.world = world
        self.keep = keep

    def save(self, step: int, state: State, *, best: bool) -> Path:
        """Write a checkpoint from all ranks; return its folder when it is complete.

        Collective. `best` marks it as the best one so far. Raises `CheckpointError`, on all ranks,
        when a number is not finite or when it cannot be written; earlier checkpoints are not
        affected.
        """
        self._refuse_not_finite(step, state)
        partial = self._on_main(lambda: folders.partial_folder(self.folder, step))
        writer = Writer(partial / "state", state.rows)
        try:
            with _quiet():
                save_sharded({**state.replicated, **state.rows}, storage_writer=writer)
        except CheckpointException as error:
            raise CheckpointError(
                f"{partial}: cannot be written: {_cause(error, partial)}; earlier checkpoints are "
                "unchanged"
            ) from error
        written = _merged(gather(writer.digests))
        return self._on_main(lambda: self._finish(partial, step, state, written, best=best))

    def load(self, folder: Path, state: State) -> dict[str, Any]:
        """Fill the tensors of `state` in place from a checkpoint and return its metadata.

        Collective; the checkpoint may have been written by any number of ranks. It is one that
        `find` has compared with its hashes. If it has no averaged weights, the average starts at
        the backbone's, with a warning. Raises `CheckpointError` when its tensors do not match this
        run's.
        """
        metadata = read_metadata(folder)
        files = digests(folder, metadata)
        try:
            _fill(state.backbone, read_weights(folder / RAW_WEIGHTS))
            if state.average:
                is_there = AVERAGED_WEIGHTS in files
                _fill(
                    state.average,
                    read_weights(folder / (AVERAGED_WEIGHTS if is_there else RAW_WEIGHTS)),
                )
            with _quiet():
                load_sharded(
                    {**state.replicated, **state.rows},
                    storage_reader=Reader(folder / "state", files, state.rows),
                    planner=Planner(),
                )
        except (Exception, CheckpointException) as error:
            # A hostile file causes many kinds of errors; the user needs the folder and the cause.
            raise CheckpointError(
                f"{folder}: cannot be loaded: {_cause(error, folder)}; resume from another "
                "checkpoint with --resume PATH"
            ) from error
        if self.world.is_main and bool(state.average) != (AVERAGED_WEIGHTS in files):
            log.warning(
                "%s has no averaged weights (%s): the average starts at its backbone"
                if state.average
                else "%s has averaged weights (%s), which are left out: this run keeps no average",
                folder,
                AVERAGED_WEIGHTS,
            )
        return metadata

    def find(self, resume: str) -> Path | None:
        """Return the checkpoint that `--resume` means, every byte of it compared with its hash.

        `auto` is the newest one of this run folder that is as it was saved, or None if there has
        been no save. Anything else is the path of a checkpoint, or of a run folder, of which it is
        the newest such checkpoint. What is skipped is logged, with the reason. Collective: all
        ranks return the same. Raises `CheckpointError` when there is none, or only damaged ones.
        """
        path = self.folder if resume == "auto" else Path(resume)
        found = self._on_main(lambda: _newest_first(path, automatic=resume == "auto"))
        problems: list[str] = []
        for folder in found:
            problem = self._damage(folder)
            if problem is None:
                for skipped in problems:
                    log.warning("skipped a damaged checkpoint: %s", skipped)
                return folder
            problems.append(problem)
        if not problems:
            return None
        raise CheckpointError(
            f"{'; '.join(problems)}. No other checkpoint is left: expected one as it was saved; "
            "restore a copy, resume from another folder with --resume PATH, or start anew in "
            "another folder with --output"
        )

    def continue_from(self, folder: Path) -> None:
        """Set aside what an earlier attempt saved after `folder`, from which this one resumed.

        Collective.
        """
        self._on_main(lambda: folders.leave_behind(self.folder, folder))

    def _finish(
        self, partial: Path, step: int, state: State, written: dict[str, FileDigest], *, best: bool
    ) -> Path:
        """Write what exists once, give the folder its name and remove old ones. On rank 0."""
        for name, weights in {RAW_WEIGHTS: state.backbone, AVERAGED_WEIGHTS: state.average}.items():
            if weights:
                with digesting(partial / name) as file:
                    torch.save(dict(weights), cast(IO[bytes], file))
                written[name] = file.digest()
        folders.sync_folder(partial / "state")
        write_metadata(partial, {"step": step, **state.metadata}, written)
        final = folders.publish(partial)
        folders.point(self.folder, "latest", final)
        if best:
            folders.point(self.folder, "best", final)
        try:
            folders.prune(self.folder, self.keep)
        except OSError as error:  # the new one is safe: not a reason to end the run
            log.warning("old checkpoints remain: %s", describe_os_error(self.folder, error))
        return final

    def _refuse_not_finite(self, step: int, state: State) -> None:
        """Raise `CheckpointError` on all ranks if a tensor of some rank has NaN or infinity."""
        averages = {f"{name} (averaged)": tensor for name, tensor in state.average.items()}
        tensors = {**state.backbone, **averages, **state.replicated}
        parts: dict[str, Iterable[Tensor]] = {name: [tensor] for name, tensor in tensors.items()}
        for name, rows in state.rows.items():
            parts[name] = (rows.local.read(*bounds) for bounds in rows.chunks())
        own = {name: None for name, of_one in parts.items() if not _are_finite(of_one)}
        names = sorted(_merged(gather(own)))
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            last = folders.latest(self.folder)
            raise CheckpointError(
                f"step {step}: not finite: {', '.join(names[:3])}{more}; such weights are not "
                f"saved. {f'The last finite checkpoint is {last}' if last else 'None was saved'}. "
                "Usual causes: optimizer.lr too high for train.global_batch_size, no warm-up, fp16"
            )

    def _damage(self, folder: Path) -> str | None:
        """Return how a checkpoint differs from what was saved, or None; each rank reads a part."""
        problem = None
        try:
            listed = sorted(digests(folder, read_metadata(folder)).items())
        except CheckpointError as error:
            listed, problem = [], str(error)
        for name, digest in listed[self.world.rank :: self.world.size]:
            problem = problem or damage(folder, name, digest, read=True)
        found = sorted({text for text in gather(problem) if text is not None})
        return f"{folder}: {'; '.join(found)}" if found else None

    def _on_main(self, action: Callable[[], Result]) -> Result:
        return on_main(action, self.folder, CheckpointError)


def _fill(tensors: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for name, tensor in tensors.items():
            tensor.copy_(weights[name])


def _merged(parts: Sequence[dict[str, Value]]) -> dict[str, Value]:
    return {name: value for part in parts for name, value in part.items()}


def _newest_first(path: Path, *, automatic: bool) -> list[Path]:
    """Return the checkpoints that `path` may mean, the best choice first."""
    checkpoints = path if automatic else folders.in_run(path)
    if checkpoints is None:
        return [folders.resolve(path)]
    if automatic:  # another run's folder is only read
        folders.complete_interrupted_saves(checkpoints)
    found = folders.candidates(checkpoints)[::-1]
    return found if found or automatic else [folders.resolve(path)]


def _are_finite(parts: Iterable[Tensor]) -> bool:
    """Return whether there is no NaN and no infinity; waits for a GPU once."""
    finite = torch.tensor(True)
    for part in parts:
        if part.is_floating_point() and part.numel() > 0:
            # One pass without a copy, unlike isfinite().all(): a table can fill the memory.
            low, high = torch.aminmax(part)
            finite = finite.to(part.device, non_blocking=True) & low.isfinite() & high.isfinite()
    return bool(finite.item())


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress torch's warning that one process saves and loads alone: that is intended."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is .*uninitialized")
        yield


def _cause(error: BaseException, folder: Path) -> str:
    """Return what went wrong, without the tracebacks that a `CheckpointException` collects."""
    rank = ""
    if isinstance(error, CheckpointException) and error.failures:
        number, (error, _) = next(iter(error.failures.items()))
        rank = f"on rank {number}, "
    if isinstance(error, OSError):
        return rank + describe_os_error(Path(error.filename or folder), error)
    if isinstance(error, CheckpointError):
        return rank + str(error)
    return f"{rank}{type(error).__name__}: {str(error)[:500]}"
