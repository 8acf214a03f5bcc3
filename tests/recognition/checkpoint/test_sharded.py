import io
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint import metadata as dcp

from recognition.checkpoint import CheckpointError
from recognition.distributed import World
from tests.recognition.checkpoint.states import (
    assert_loaded,
    checkpoints,
    make_state,
    reseal,
    save_steps,
)


class Touch:
    """A pickle that runs code: it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[object, tuple[str, int]]:
        return os.open, (self.path, os.O_CREAT)


def refuse(folder: Path, content: object) -> str:
    """Replace `.metadata` as an attacker can; return the message with which it is refused."""
    (folder / "state" / ".metadata").write_bytes(pickle.dumps(content))
    reseal(folder)
    output = folder.parent.parent
    assert checkpoints(output).find("auto") == folder  # the hashes are right
    with pytest.raises(CheckpointError) as caught:
        checkpoints(output).load(folder, make_state(World(), empty=True))
    return str(caught.value)


def contents(folder: Path) -> Any:
    return pickle.loads((folder / "state" / ".metadata").read_bytes())


def test_reading_a_checkpoint_runs_no_code(tmp_path: Path) -> None:
    [folder] = save_steps(tmp_path, 1)
    message = refuse(folder, Touch(tmp_path / "executed"))
    assert not (tmp_path / "executed").exists()
    assert "posix.open" in message
    refuse(folder, {"hidden": [Touch(tmp_path / "executed")]})
    assert not (tmp_path / "executed").exists()


class Attribute:
    """A pickle that asks for an attribute of something."""

    def __init__(self, owner: object, name: str) -> None:
        self.arguments = owner, name

    def __reduce__(self) -> tuple[object, tuple[object, str]]:
        return getattr, self.arguments


def test_of_all_attributes_only_the_memory_format_is_given(tmp_path: Path) -> None:
    [folder] = save_steps(tmp_path, 1)
    encoding = dcp._MEM_FORMAT_ENCODING  # which Python 3.11.2 pickles in this way
    metadata = contents(folder)
    metadata.planner_data = Attribute(encoding, encoding.TORCH_CHANNELS_LAST.name)
    (folder / "state" / ".metadata").write_bytes(pickle.dumps(metadata))
    reseal(folder)
    checkpoints(tmp_path).load(folder, make_state(World(), empty=True))
    for owner, name in ((encoding, "__init__"), (dcp.Metadata, "__init__"), (torch.Size, "numel")):
        metadata.planner_data = Attribute(owner, name)
        assert name in refuse(folder, metadata) or str(owner) in refuse(folder, metadata)


@pytest.mark.parametrize(
    "path", ["../../../outside.distcp", "/tmp/outside.distcp", "..", "a/b", "__7_0.distcp", ""]
)
def test_no_path_leads_out_of_a_checkpoint(tmp_path: Path, path: str) -> None:
    [folder] = save_steps(tmp_path, 1)
    shutil.copy(folder / "state" / "__0_0.distcp", tmp_path / "outside.distcp")
    metadata = contents(folder)
    for info in metadata.storage_data.values():
        info.relative_path = path
    assert repr(path) in refuse(folder, metadata)


def set_offset(metadata: Any) -> None:
    for info in metadata.storage_data.values():
        info.offset = 10**12


def set_length(metadata: Any) -> None:
    for info in metadata.storage_data.values():
        info.length = -1


def set_transform(metadata: Any) -> None:
    for info in metadata.storage_data.values():
        info.transform_descriptors = ["zstd"]


def drop_table(metadata: Any) -> None:
    metadata.storage_data = None


def drop_tensor(metadata: Any) -> None:
    del metadata.state_dict_metadata["head.weight"]


def swap_files(metadata: Any) -> None:
    metadata.state_dict_metadata["head.weight"] = metadata.state_dict_metadata.pop(
        "optimizer.layer.weight.momentum_buffer"
    )


@pytest.mark.parametrize(
    "change", [set_offset, set_length, set_transform, drop_table, drop_tensor, swap_files]
)
def test_a_table_of_contents_that_no_save_wrote_is_refused(
    tmp_path: Path, change: Callable[[Any], None]
) -> None:
    [folder] = save_steps(tmp_path, 1)
    metadata = contents(folder)
    change(metadata)
    assert str(folder) in refuse(folder, metadata)


def test_a_small_file_cannot_ask_for_much_memory(tmp_path: Path) -> None:
    [folder] = save_steps(tmp_path, 1)
    metadata, content = contents(folder), io.BytesIO()
    torch.save(torch.zeros(1000, 1000), content)
    bomb = io.BytesIO()
    with zipfile.ZipFile(content) as archive, zipfile.ZipFile(bomb, "w") as compressed:
        for entry in archive.infolist():
            compressed.writestr(entry.filename, archive.read(entry), zipfile.ZIP_DEFLATED)
    (folder / "state" / "__0_0.distcp").write_bytes(bomb.getvalue())
    for info in metadata.storage_data.values():
        info.offset, info.length = 0, len(bomb.getvalue())
    assert "__0_0.distcp" in refuse(folder, metadata)


def test_a_checkpoint_does_not_say_where_it_was_written_and_may_be_moved(tmp_path: Path) -> None:
    [folder] = save_steps(tmp_path / "here", 1)
    for file in folder.rglob("*"):
        assert file.is_dir() or str(tmp_path).encode() not in file.read_bytes()
    (tmp_path / "here").rename(tmp_path / "there")
    state = make_state(World(), empty=True)
    moved = checkpoints(tmp_path / "there").find("auto")
    assert moved is not None
    checkpoints(tmp_path / "there").load(moved, state)
    assert_loaded(state, World())
