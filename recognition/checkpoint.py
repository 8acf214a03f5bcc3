"""Checkpoints: everything a run needs to continue, on any number of ranks.

One checkpoint is one folder, `checkpoints/step_00000400/`:

    backbone.pt   the backbone's weights under their published names, a plain state dict
    state/        class-sharded tensors by global class id and optimizer state, written by every
                  rank through torch.distributed.checkpoint; loads on any number of ranks
    run.json      step, counters, scaler, versions, the resolved config

A folder gets its final name only when it is complete and on disk, so an interrupted save is never
mistaken for a checkpoint. The files `latest` and `best` hold the name of one of the folders.
"""

import json
import os
import re
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict_loader import load as load_sharded
from torch.distributed.checkpoint.state_dict_saver import save as save_sharded
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Shard

from recognition.distributed import World, barrier

FORMAT = 1
_FOLDER = re.compile(r"step_(\d{8})")


class CheckpointError(ValueError):
    """A checkpoint that is missing, damaged, or belongs to another run."""


@dataclass(frozen=True)
class ShardedRows:
    """This rank's rows of a tensor that `distributed.shard_range` splits over the ranks."""

    local: Tensor  # [stop - start, ...], the rows on this rank; loading writes into it
    total: int  # number of rows on all ranks


@dataclass(frozen=True)
class State:
    """What is saved and loaded together."""

    backbone: Mapping[str, Tensor]  # its state dict, equal on all ranks
    replicated: Mapping[str, Tensor]  # other tensors that are equal on all ranks, by name
    rows: Mapping[str, ShardedRows]  # tensors split over the ranks, by name
    metadata: Mapping[str, Any]  # step, counters, config and so on: JSON values


class Checkpoints:
    """Writes, finds and loads the checkpoints of one run folder, in its folder `checkpoints`.

    The latest `keep` are kept, in addition to the best one.
    """

    def __init__(self, output: Path, *, world: World, keep: int) -> None:
        self.folder = output / "checkpoints"
        self.world = world
        self.keep = keep
        self._meshes: dict[str, DeviceMesh] = {}

    def save(self, step: int, state: State, *, best: bool) -> Path:
        """Write a checkpoint from all ranks; return its folder when it is complete.

        Collective. `best` marks it as the best one so far. Raises `CheckpointError` or `OSError`
        when it cannot be written; earlier checkpoints are not affected.
        """
        final = self.folder / f"step_{step:08d}"
        partial = final.with_suffix(".partial")
        if self.world.is_main:
            for leftover in self.folder.glob("*.partial"):
                shutil.rmtree(leftover)
            partial.mkdir(parents=True)
        barrier()
        try:
            with _quiet():
                save_sharded(self._tensors(state), checkpoint_id=partial / "state")
        except CheckpointException as error:
            raise CheckpointError(
                f"{partial}: cannot be written: {_cause(error)}; earlier checkpoints are unchanged"
            ) from error
        if self.world.is_main:
            _write(partial / "backbone.pt", lambda path: torch.save(dict(state.backbone), path))
            text = json.dumps({"format": FORMAT, "step": step, **state.metadata}, indent=1)
            _write(partial / "run.json", lambda path: path.write_text(text))
            _sync_folder(partial)
            if final.exists():  # a resumed run saves a step again
                shutil.rmtree(final)
            partial.rename(final)
            _sync_folder(self.folder)
            self._point("latest", final.name)
            if best:
                self._point("best", final.name)
            self._prune()
        barrier()
        return final

    def load(self, folder: Path, state: State) -> dict[str, Any]:
        """Fill the tensors of `state` in place from a checkpoint and return its metadata.

        Collective; the checkpoint may have been written by any number of ranks. Raises
        `CheckpointError` when it is damaged or its tensors do not match this run's.
        """
        metadata = read_metadata(folder)
        try:
            backbone = torch.load(folder / "backbone.pt", map_location="cpu", weights_only=True)
            with torch.no_grad():
                for name, tensor in state.backbone.items():
                    tensor.copy_(backbone[name])
            with _quiet():
                load_sharded(self._tensors(state), checkpoint_id=folder / "state")
        except (Exception, CheckpointException) as error:
            # Damage causes many kinds of errors; the user needs the folder and what to do next.
            raise CheckpointError(
                f"{folder}: cannot be loaded: {_cause(error)}; if it is damaged, "
                "resume from an earlier one with --resume PATH"
            ) from error
        return metadata

    def find(self, resume: str) -> Path | None:
        """Return the checkpoint that `--resume` means.

        `auto` is the latest one of this run folder, or None if there is none. Anything else is the
        path of a checkpoint, or of a run folder, meaning its latest checkpoint. Raises
        `CheckpointError` when the path is neither.
        """
        if resume == "auto":
            return latest(self.folder)
        return resolve(Path(resume))

    def _tensors(self, state: State) -> dict[str, Any]:
        """Return the tensors that go through torch.distributed.checkpoint, rows as DTensors."""
        tensors: dict[str, Any] = dict(state.replicated)
        for name, rows in state.rows.items():
            if not dist.is_initialized():
                tensors[name] = rows.local
                continue
            shape = torch.Size((rows.total, *rows.local.shape[1:]))
            tensors[name] = DTensor.from_local(
                rows.local,
                self._mesh(rows.local.device.type),
                [Shard(0)],
                run_check=False,
                shape=shape,
                stride=torch.empty(shape, device="meta").stride(),
            )
        return tensors

    def _mesh(self, device_type: str) -> DeviceMesh:
        """Return all ranks as a mesh; its device type must be that of the DTensor."""
        if device_type not in self._meshes:
            self._meshes[device_type] = init_device_mesh(device_type, (self.world.size,))
        return self._meshes[device_type]

    def _point(self, name: str, target: str) -> None:
        temporary = self.folder / f"{name}.new"
        _write(temporary, lambda path: path.write_text(target + "\n"))
        temporary.replace(self.folder / name)

    def _prune(self) -> None:
        best = self.folder / "best"
        kept = {best.read_text().strip()} if best.exists() else set()
        for folder in _complete(self.folder)[: -self.keep]:
            if folder.name not in kept:
                shutil.rmtree(folder)


def refuse_used_folder(output: Path) -> None:
    """Raise `ValueError` for a run folder that an earlier run has used."""
    if output.exists() and any(output.iterdir()):
        raise ValueError(
            f"{output} holds an earlier run: continue it with --resume auto, or choose another "
            "folder with --output"
        )


def latest(checkpoints: Path) -> Path | None:
    """Return the complete checkpoint with the highest step in a `checkpoints` folder, if any."""
    complete = _complete(checkpoints)
    return complete[-1] if complete else None


def resolve(path: Path) -> Path:
    """Return the checkpoint folder that `path` means: itself, or a run folder's latest one.

    Raises `CheckpointError` when there is none.
    """
    if (path / "run.json").is_file():
        return path
    found = latest(path / "checkpoints") or latest(path)
    if found is None:
        raise CheckpointError(
            f"{path}: found no checkpoint; expected a run folder, or one of its "
            "checkpoints/step_XXXXXXXX folders"
        )
    return found


def backbone_file(path: Path) -> Path:
    """Return the backbone weight file that `path` means.

    `path` is such a file, a checkpoint folder, or a run folder (its latest checkpoint).
    """
    return path if path.is_file() else resolve(path) / "backbone.pt"


def read_metadata(folder: Path) -> dict[str, Any]:
    """Return the metadata of a checkpoint. Raises `CheckpointError` when it cannot be read."""
    file = folder / "run.json"
    try:
        metadata = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file}: cannot be read: {error}") from None
    if not isinstance(metadata, dict) or metadata.get("format") != FORMAT:
        found = metadata.get("format") if isinstance(metadata, dict) else type(metadata).__name__
        raise CheckpointError(f"{file}: found checkpoint format {found}, expected {FORMAT}")
    return metadata


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress torch's warning that one process saves and loads alone: that is intended."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is .*uninitialized")
        yield


def _cause(error: BaseException) -> str:
    """Return what went wrong, without the tracebacks that a `CheckpointException` collects."""
    if isinstance(error, CheckpointException) and error.failures:
        rank, (cause, _) = next(iter(error.failures.items()))
        return f"on rank {rank}, {type(cause).__name__}: {cause}"
    return f"{type(error).__name__}: {error}"


def _complete(checkpoints: Path) -> list[Path]:
    """Return the complete checkpoint folders, by step. Partial ones have another name."""
    if not checkpoints.is_dir():
        return []
    return sorted(item for item in checkpoints.iterdir() if _FOLDER.fullmatch(item.name))


def _write(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file and wait until it is on disk."""
    write(path)
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


def _sync_folder(folder: Path) -> None:
    """Wait until a folder's entries are on disk; only then is a rename durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
