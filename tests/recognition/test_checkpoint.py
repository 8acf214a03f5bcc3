import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

from recognition.checkpoint import (
    CheckpointError,
    Checkpoints,
    ShardedRows,
    State,
    backbone_file,
    read_metadata,
    resolve,
)
from recognition.distributed import World, current, shard_range
from tests.distributed_harness import run_ranks

CLASSES = 9  # on 4 ranks: 3, 3, 3 and an empty shard


def table(name: str) -> Tensor:
    generator = torch.Generator().manual_seed(len(name))
    return torch.randn(CLASSES, 5, generator=generator)


def make_state(world: World, *, empty: bool = False) -> State:
    """Return a state with known values, or the same shapes with zeros."""
    start, stop = shard_range(CLASSES, world.size, world.rank)
    factor = 0.0 if empty else 1.0
    return State(
        backbone={"layer.weight": torch.arange(6.0).view(2, 3) * factor},
        replicated={"optimizer.layer.weight.momentum_buffer": torch.full((2, 3), 7.0) * factor},
        rows={
            name: ShardedRows(table(name)[start:stop].clone() * factor, CLASSES)
            for name in ("head.weight", "head.momentum")
        },
        metadata={"progress": {"step": 3}},
    )


def checkpoints(output: Path, world: World, keep: int = 2) -> Checkpoints:
    return Checkpoints(output, world=world, keep=keep)


def assert_loaded(state: State, world: World) -> None:
    expected = make_state(world)
    for name, rows in state.rows.items():
        assert torch.equal(rows.local, expected.rows[name].local)
    for name, tensor in [*state.backbone.items(), *state.replicated.items()]:
        assert torch.equal(tensor, {**expected.backbone, **expected.replicated}[name])


def save_on_ranks(output: Path) -> None:
    checkpoints(output, current()).save(3, make_state(current()), best=True)


def load_on_ranks(output: Path) -> None:
    state = make_state(current(), empty=True)
    found = checkpoints(output, current()).find("auto")
    assert found is not None
    assert checkpoints(output, current()).load(found, state)["progress"] == {"step": 3}
    assert_loaded(state, current())


@pytest.mark.slow
@pytest.mark.parametrize(("saved_on", "loaded_on"), [(1, 4), (4, 1), (4, 2), (2, 4)])
def test_a_checkpoint_loads_on_any_number_of_ranks(
    tmp_path: Path, saved_on: int, loaded_on: int
) -> None:
    for count, function in ((saved_on, save_on_ranks), (loaded_on, load_on_ranks)):
        if count == 1:
            function(tmp_path)
        else:
            run_ranks(function, count, tmp_path)


def test_the_last_ones_and_the_best_are_kept(tmp_path: Path) -> None:
    writer = checkpoints(tmp_path, World())
    for step in (1, 2, 3, 4, 5):
        writer.save(step, make_state(World()), best=step == 2)
    names = sorted(item.name for item in (tmp_path / "checkpoints").iterdir())
    assert names == ["best", "latest", "step_00000002", "step_00000004", "step_00000005"]
    assert (tmp_path / "checkpoints" / "best").read_text() == "step_00000002\n"
    assert resolve(tmp_path).name == "step_00000005"
    assert backbone_file(tmp_path).parent.name == "step_00000005"


def test_an_interrupted_save_is_never_mistaken_for_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = checkpoints(tmp_path, World())
    writer.save(1, make_state(World()), best=False)

    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(torch, "save", full_disk)
        with pytest.raises(CheckpointError, match=r"step_00000002.*rank 0, OSError.*No space"):
            writer.save(2, make_state(World()), best=False)
    assert writer.find("auto") == tmp_path / "checkpoints" / "step_00000001"
    state = make_state(World(), empty=True)
    writer.load(tmp_path / "checkpoints" / "step_00000001", state)
    assert_loaded(state, World())
    writer.save(2, make_state(World()), best=False)  # which removes the leftovers
    assert not list((tmp_path / "checkpoints").glob("*.partial"))


def test_what_is_not_a_checkpoint_is_refused(tmp_path: Path) -> None:
    assert checkpoints(tmp_path, World()).find("auto") is None
    with pytest.raises(CheckpointError, match=re.escape(str(tmp_path))):
        checkpoints(tmp_path, World()).find(str(tmp_path))
    folder = checkpoints(tmp_path, World()).save(1, make_state(World()), best=False)
    other = make_state(World())
    larger = State({"layer.weight": torch.zeros(4, 3)}, other.replicated, other.rows, {})
    with pytest.raises(CheckpointError, match=folder.name):
        checkpoints(tmp_path, World()).load(folder, larger)
    (folder / "backbone.pt").write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match="--resume PATH"):
        checkpoints(tmp_path, World()).load(folder, make_state(World()))
    (folder / "run.json").write_text('{"format": 99}')
    with pytest.raises(CheckpointError, match=r"run\.json.* 99.* 1$"):
        read_metadata(folder)
