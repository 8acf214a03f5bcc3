import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from recognition.checkpoint import CheckpointError, backbone_file, latest, resolve
from recognition.checkpoint.folders import candidates, pointed
from recognition.distributed import World
from tests.recognition.checkpoint.states import checkpoints, flip_bit, make_state, save_steps


@pytest.mark.parametrize("missing", ["run.json", "backbone.pt", "state/__0_0.distcp"])
def test_a_folder_counts_only_when_its_list_and_its_files_are_there(
    tmp_path: Path, missing: str
) -> None:
    first, second = save_steps(tmp_path, 1, 2)
    (second / missing).unlink()
    assert latest(tmp_path / "checkpoints") == first
    assert resolve(tmp_path) == first


@pytest.mark.parametrize(
    "name", ["../outside", "/etc", ".", "..", "", "step_00000009", "step_00000001/state", "x\0y"]
)
def test_a_pointer_names_a_checkpoint_of_its_own_folder_or_nothing(
    tmp_path: Path, name: str
) -> None:
    [folder] = save_steps(tmp_path, 1, best=1)
    shutil.copytree(folder, tmp_path / "outside")
    assert pointed(folder.parent, "best") == folder
    (folder.parent / "best").write_text(name)
    assert pointed(folder.parent, "best") is None
    with pytest.raises(CheckpointError, match="best"):
        resolve(tmp_path, "best")


def test_a_link_is_no_checkpoint_and_is_never_followed(tmp_path: Path) -> None:
    [folder] = save_steps(tmp_path / "other", 9)
    own = tmp_path / "run" / "checkpoints"
    own.mkdir(parents=True)
    (own / folder.name).symlink_to(folder)
    assert candidates(own) == []
    [saved] = save_steps(tmp_path / "run", 1)
    victim = tmp_path / "victim"
    victim.write_text("precious")
    for name in ("latest.new", "latest"):
        (own / name).unlink(missing_ok=True)
        (own / name).symlink_to(victim)
    (saved / "backbone.pt").unlink()
    (saved / "backbone.pt").symlink_to(folder / "backbone.pt")
    assert latest(own) is None
    save_steps(tmp_path / "run", 2)
    assert victim.read_text() == "precious"
    assert (folder / "run.json").exists()


def test_a_pipe_in_a_checkpoint_does_not_hang(tmp_path: Path) -> None:
    [folder] = save_steps(tmp_path, 1)
    (folder / "run.json").unlink()
    os.mkfifo(folder / "run.json")
    assert latest(folder.parent) is None
    with pytest.raises(CheckpointError, match=r"run\.json"):
        checkpoints(tmp_path).find("auto")


def test_weights_of_a_checkpoint_are_compared_with_their_hash(tmp_path: Path) -> None:
    [folder] = save_steps(tmp_path, 1)
    file = folder / "backbone.pt"
    for path in (tmp_path, folder, file):
        assert backbone_file(path) == file
    copy = Path(shutil.copy(file, tmp_path / "copy.pt"))
    flip_bit(file)
    for path in (tmp_path, folder, file):
        with pytest.raises(CheckpointError, match=r"backbone\.pt"):
            backbone_file(path)
    assert backbone_file(copy) == copy


def test_averaged_weights_of_a_checkpoint_are_chosen_by_name(tmp_path: Path) -> None:
    [without] = save_steps(tmp_path / "without", 1)
    state = make_state(World())
    state = replace(state, average={name: tensor + 1 for name, tensor in state.backbone.items()})
    folder = checkpoints(tmp_path).save(1, state, best=True)
    file = folder / "backbone_ema.pt"
    for path in (tmp_path, folder, file):
        assert backbone_file(path, weights="ema") == file
    assert backbone_file(tmp_path, "best", "ema") == file
    assert backbone_file(file) == file
    assert backbone_file(folder) == folder / "backbone.pt"
    for path in (tmp_path / "without", without, folder / "backbone.pt"):
        with pytest.raises(CheckpointError, match=r"backbone_ema\.pt"):
            backbone_file(path, weights="ema")
    flip_bit(file)
    for path in (folder, file):
        with pytest.raises(CheckpointError, match=r"backbone_ema\.pt"):
            backbone_file(path, weights="ema")
    assert backbone_file(folder) == folder / "backbone.pt"


def test_an_interrupted_removal_leaves_no_checkpoint_without_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_steps(tmp_path, 1, 2)
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", lambda path: (path / "backbone.pt").unlink())
        save_steps(tmp_path, 3)
    names = [folder.name for folder in candidates(tmp_path / "checkpoints")]
    assert names == ["step_00000002", "step_00000003"]
