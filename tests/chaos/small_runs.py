"""A run without training: saves whose every value says of which step and attempt it is."""

from pathlib import Path

import torch

from recognition.checkpoint import Checkpoints, ShardedRows, State
from recognition.distributed import World, shard_range
from tests.chaos.attack import HarmError
from tests.recognition.checkpoint.states import TensorRows, values

CLASSES = 9
KEEP = 2
CHUNK_BYTES = 3 * 40 * 4  # 3 rows, so that there are several files


def state_of(world: World, step: int, attempt: int = 0) -> State:
    """Return the state of a step of an attempt; every value says which."""
    value = 100.0 * attempt + step
    start, stop = shard_range(CLASSES, world.size, world.rank)

    def rows() -> ShardedRows:
        ids = torch.arange(float(start), float(stop))
        return ShardedRows(
            TensorRows(ids[:, None].repeat(1, 40) + 1000 * value), CLASSES, start, CHUNK_BYTES
        )

    return State(
        backbone={"layer.weight": torch.full((40, 30), value)},
        replicated={"optimizer.layer.weight.momentum_buffer": torch.full((40, 30), -value)},
        rows={n: rows() for n in ("head.weight", "head.momentum")},
        metadata={"progress": {"step": step}},
    )


def save(folder: Path, world: World, step: int, attempt: int = 0) -> None:
    """Save a step as a run does."""
    checkpoints = Checkpoints(folder, world=world, keep=KEEP)
    checkpoints.save(step, state_of(world, step, attempt), best=step == 1)


def load(folder: Path, world: World, resume: str = "auto") -> tuple[int, int] | None:
    """Return step and attempt of what a resumed run gets, compared value by value."""
    checkpoints = Checkpoints(folder, world=world, keep=KEEP)
    found = checkpoints.find(resume)
    if found is None:
        return None
    state = state_of(world, 0)
    checkpoints.load(found, state)
    value = int(state.backbone["layer.weight"][0, 0])
    step, attempt = value % 100, value // 100
    expected = state_of(world, step, attempt)
    for own, other in (
        (state.backbone, expected.backbone),
        (state.replicated, expected.replicated),
        *(({n: values(r)}, {n: values(expected.rows[n])}) for n, r in state.rows.items()),
    ):
        for name, tensor in own.items():
            if not torch.equal(tensor, other[name]):
                raise HarmError(f"{name} is not what was saved")
    if found.name != f"step_{step:08d}":
        raise HarmError(f"{found.name} holds step {step}")
    return step, attempt


def go_back(folder: Path, world: World, step: int) -> None:
    """Resume from an earlier step, as `--resume step_N` does."""
    checkpoints = Checkpoints(folder, world=world, keep=KEEP)
    found = checkpoints.find(str(folder / "checkpoints" / f"step_{step:08d}"))
    assert found is not None
    checkpoints.load(found, state_of(world, 0))
    if hasattr(checkpoints, "continue_from"):  # versions before it had no such notion
        checkpoints.continue_from(found)
