import errno
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from recognition.checkpoint import (
    CheckpointError,
    ShardedRows,
    State,
    backbone_file,
    read_metadata,
    resolve,
)
from recognition.checkpoint.manifest import DigestingFile
from recognition.distributed import World, current
from recognition.head import PartialFC
from tests.distributed_harness import run_ranks
from tests.recognition.checkpoint.states import (
    CLASSES,
    assert_loaded,
    checkpoints,
    flip_bit,
    make_state,
    save_steps,
    values,
)


def save_on_ranks(output: Path) -> None:
    checkpoints(output, current()).save(3, make_state(current()), best=True)


def load_on_ranks(output: Path) -> None:
    state = make_state(current(), empty=True)
    found = checkpoints(output, current()).find("auto")
    assert found is not None
    assert checkpoints(output, current()).load(found, state)["progress"] == {"step": 3}
    assert_loaded(state, current())


@pytest.mark.slow
@pytest.mark.parametrize(("saved_on", "loaded_on"), [(1, 4), (4, 2)])
def test_a_checkpoint_loads_on_any_number_of_ranks(
    tmp_path: Path, saved_on: int, loaded_on: int
) -> None:
    for count, function in ((saved_on, save_on_ranks), (loaded_on, load_on_ranks)):
        if count == 1:
            function(tmp_path)
        else:
            run_ranks(function, count, tmp_path)


def _compact_head() -> PartialFC:
    return PartialFC(8, CLASSES, sampling="importance", sample_rate=0.7, storage="int8")


def _state_of(head: PartialFC) -> State:
    rows = {
        f"head.{name}": ShardedRows(rows, CLASSES, head.shard[0])
        for name, rows in head.state_rows().items()
    }
    state = make_state(current())
    return State(state.backbone, state.replicated, rows, metadata={"progress": {"step": 2}})


def save_compact_centres(output: Path) -> None:
    head = _compact_head()
    for step in range(2):
        x, y = torch.randn(4, 8), torch.tensor([0, 3, 6, 8]) - step % 2
        head(x.requires_grad_(), y % CLASSES).loss.backward()
        head.step(0.1)
    checkpoints(output, current()).save(2, _state_of(head), best=False)
    torch.save(head.state_tensors(), output / f"{current().rank}.pt")


def load_compact_centres(output: Path, saved_on: int) -> None:
    head, saver = _compact_head(), checkpoints(output, current())
    found = saver.find("auto")
    assert found is not None
    saver.load(found, _state_of(head))
    saved = [torch.load(output / f"{rank}.pt") for rank in range(saved_on)]
    assert head.state_tensors()["weight"].dtype == torch.int8
    assert {"weight_scale", "momentum_scale"} <= head.state_tensors().keys()
    for name, rows in head.state_tensors().items():
        whole = torch.cat([tensors[name] for tensors in saved])
        assert torch.equal(rows, whole[slice(*head.shard)]), name


@pytest.mark.slow
@pytest.mark.parametrize(("saved_on", "loaded_on"), [(3, 2), (2, 1)])
def test_centres_in_int8_load_on_any_number_of_ranks(
    tmp_path: Path, saved_on: int, loaded_on: int
) -> None:
    run_ranks(save_compact_centres, saved_on, tmp_path)
    run_ranks(load_compact_centres, loaded_on, tmp_path, saved_on)


def test_the_last_ones_and_the_best_are_kept(tmp_path: Path) -> None:
    save_steps(tmp_path, 1, 2, 3, 4, 5, best=2)
    names = sorted(item.name for item in (tmp_path / "checkpoints").iterdir())
    assert names == ["best", "latest", "step_00000002", "step_00000004", "step_00000005"]
    assert (tmp_path / "checkpoints" / "best").read_text() == "step_00000002\n"
    assert resolve(tmp_path).name == "step_00000005"
    assert resolve(tmp_path, "best").name == "step_00000002"
    assert backbone_file(tmp_path).parent.name == "step_00000005"


def test_an_interrupted_save_is_never_mistaken_for_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = checkpoints(tmp_path)
    [first] = save_steps(tmp_path, 1)

    def full_disk(file: DigestingFile, _: object) -> int:
        file.error = OSError(errno.ENOSPC, "No space left on device", "where")
        raise file.error

    with monkeypatch.context() as patched:
        patched.setattr(DigestingFile, "write", full_disk)
        with pytest.raises(CheckpointError, match=r"step_00000002.*rank 0.*where: .*disk.* full"):
            writer.save(2, make_state(World()), best=False)
    assert writer.find("auto") == first
    state = make_state(World(), empty=True)
    writer.load(first, state)
    assert_loaded(state, World())
    writer.save(2, make_state(World()), best=False)  # which removes the leftovers
    assert not list((tmp_path / "checkpoints").glob("*.partial"))


def test_a_save_that_was_whole_when_interrupted_is_completed(tmp_path: Path) -> None:
    folder = save_steps(tmp_path, 1, 2)[1]
    folder.rename(folder.with_name(folder.name + ".partial"))
    assert checkpoints(tmp_path).find("auto") == folder


def test_what_is_not_a_checkpoint_is_refused(tmp_path: Path) -> None:
    assert checkpoints(tmp_path).find("auto") is None
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(CheckpointError, match=str(path)):
            checkpoints(tmp_path).find(str(path))
    [folder] = save_steps(tmp_path, 1)
    other = make_state(World())
    larger = State({"layer.weight": torch.zeros(4, 3)}, other.replicated, other.rows, {})
    with pytest.raises(CheckpointError, match=folder.name):
        checkpoints(tmp_path).load(folder, larger)
    (folder / "run.json").write_text('{"format": 99}')
    with pytest.raises(CheckpointError, match=r"run\.json.* 99.* 2"):
        read_metadata(folder)


@pytest.mark.parametrize(
    "name", ["backbone.pt", "run.json", "state/.metadata", "state/__0_0.distcp"]
)
def test_a_damaged_checkpoint_is_skipped_for_the_newest_that_is_whole(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = save_steps(tmp_path, 1, 2)
    flip_bit(second / name)
    assert checkpoints(tmp_path).find("auto") == first
    assert checkpoints(tmp_path).find(str(tmp_path)) == first
    assert f"{second}" in caplog.text
    assert Path(name).name in caplog.text
    with pytest.raises(CheckpointError, match=f"{second}.*{name.rpartition('/')[2]}"):
        checkpoints(tmp_path).find(str(second))


def test_if_every_checkpoint_is_damaged_nothing_is_started_anew(tmp_path: Path) -> None:
    for folder in save_steps(tmp_path, 1, 2):
        flip_bit(folder / "backbone.pt")
    with pytest.raises(CheckpointError, match=r"step_00000002.*step_00000001"):
        checkpoints(tmp_path).find("auto")


def find_on_ranks(output: Path) -> str | None:
    found = checkpoints(output, current()).find("auto")
    return None if found is None else found.name


@pytest.mark.slow
def test_all_ranks_fall_back_to_the_same_checkpoint(tmp_path: Path) -> None:
    run_ranks(save_on_ranks, 3, tmp_path)
    newest = tmp_path / "checkpoints" / "step_00000003"
    newer = newest.with_name("step_00000004")
    newest.rename(newer)
    run_ranks(save_on_ranks, 3, tmp_path)
    flip_bit(newer / "state" / "__2_0.distcp")  # which one rank of the three compares
    assert run_ranks(find_on_ranks, 3, tmp_path) == [newest.name] * 3


def test_averaged_weights_are_saved_and_looked_after_like_the_weights(tmp_path: Path) -> None:
    state = replace(make_state(World()), average={"layer.weight": torch.full((2, 3), 5.0)})
    writer = checkpoints(tmp_path)
    first, second = (writer.save(step, state, best=False) for step in (1, 2))
    loaded = replace(make_state(World(), empty=True), average={"layer.weight": torch.zeros(2, 3)})
    writer.load(second, loaded)
    assert_loaded(loaded, World())
    assert torch.equal(loaded.average["layer.weight"], state.average["layer.weight"])
    flip_bit(second / "backbone_ema.pt")
    assert writer.find("auto") == first
    (first / "backbone_ema.pt").unlink()
    with pytest.raises(CheckpointError, match=r"backbone_ema\.pt"):
        writer.find("auto")


def save_a_nan(output: Path) -> str:
    state = make_state(current())
    if current().rank == 1:
        values(state.rows["head.momentum"])[0, 0] = torch.inf
    try:
        checkpoints(output, current()).save(4, state, best=False)
    except CheckpointError as error:
        return str(error)
    return ""


@pytest.mark.slow
def test_what_is_not_finite_on_one_rank_is_saved_by_none(tmp_path: Path) -> None:
    run_ranks(save_on_ranks, 2, tmp_path)
    for message in run_ranks(save_a_nan, 2, tmp_path):
        assert "head.momentum" in message
        assert "step_00000003" in message
    assert not list((tmp_path / "checkpoints").glob("step_00000004*"))


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_kind_of_not_finite_is_found(
    tmp_path: Path, value: float, dtype: torch.dtype
) -> None:
    state = make_state(World())
    weights = torch.zeros(3, 5, dtype=dtype)
    weights[2, 1] = value
    bad = State({"layer.weight": weights}, state.replicated, state.rows, state.metadata)
    with pytest.raises(CheckpointError, match=r"layer\.weight"):
        checkpoints(tmp_path).save(1, bad, best=False)
    average = {"layer.weight": weights}
    bad = State(state.backbone, state.replicated, state.rows, state.metadata, average)
    with pytest.raises(CheckpointError, match=r"layer\.weight.*average"):
        checkpoints(tmp_path).save(1, bad, best=False)
    integers = State({"steps": torch.tensor(3)}, state.replicated, state.rows, state.metadata)
    checkpoints(tmp_path).save(2, integers, best=False)


def test_going_back_sets_aside_what_came_later_and_prunes_none_of_its_own(tmp_path: Path) -> None:
    writer = checkpoints(tmp_path)
    third, ninth, twelfth = save_steps(tmp_path, 3, 9, 12, keep=3, best=9)
    flip_bit(twelfth / "backbone.pt")
    writer.continue_from(third)
    names = {item.name for item in (tmp_path / "checkpoints").iterdir()}
    assert names == {
        "latest", third.name, f"{ninth.name}.set_aside", f"{twelfth.name}.set_aside"
    }  # fmt: skip
    assert (tmp_path / "checkpoints" / "latest").read_text() == f"{third.name}\n"
    [sixth] = save_steps(tmp_path, 6)
    assert writer.find("auto") == sixth
    assert third.exists()
    assert save_steps(tmp_path, 9)[0] == ninth
    writer.continue_from(third)
    assert (tmp_path / "checkpoints" / f"{ninth.name}.set_aside_2").exists()


def test_continuing_from_another_folder_sets_aside_all_that_is_here(tmp_path: Path) -> None:
    [other] = save_steps(tmp_path / "other", 5)
    own = save_steps(tmp_path / "own", 2, 7)
    checkpoints(tmp_path / "own").continue_from(other)
    assert not any(folder.exists() for folder in own)
    assert other.exists()
    assert checkpoints(tmp_path / "own").find("auto") is None


def test_a_step_saved_again_replaces_the_first(tmp_path: Path) -> None:
    [folder] = save_steps(tmp_path, 1)
    (folder / "mark").touch()
    assert save_steps(tmp_path, 1) == [folder]
    assert not (folder / "mark").exists()
    assert {item.name for item in folder.parent.iterdir()} == {"latest", folder.name}
