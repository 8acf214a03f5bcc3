import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from recognition.checkpoint import CheckpointError, read_metadata
from recognition.checkpoint.manifest import (
    FileDigest,
    damage,
    digesting,
    digests,
    open_regular,
    write_metadata,
)
from tests.recognition.checkpoint.states import flip_bit, save_steps


def write(folder: Path, metadata: dict[str, Any] | None = None) -> FileDigest:
    with digesting(folder / "backbone.pt") as file:
        file.write(b"abc" * 1000)
    write_metadata(folder, {"step": 3, **(metadata or {})}, {"backbone.pt": file.digest()})
    return file.digest()


def test_metadata_comes_back_with_numbers_of_every_kind(tmp_path: Path) -> None:
    metadata = {"nested": {"b": [1, 2.5, None, True], "a": "ü\n"}, "tiny": 5e-324, "big": 2**63}
    write(tmp_path, metadata)
    found = read_metadata(tmp_path)
    assert {name: found[name] for name in metadata} == metadata


@pytest.mark.parametrize("bit", range(0, 8, 3))
def test_any_flipped_bit_of_run_json_is_found(tmp_path: Path, bit: int) -> None:
    write(tmp_path)
    file = tmp_path / "run.json"
    whole = file.read_bytes()
    for place in range(len(whole)):
        data = bytearray(whole)
        data[place] ^= 1 << bit
        file.write_bytes(data)
        try:
            content = read_metadata(tmp_path)
        except CheckpointError as error:
            assert "run.json" in str(error)  # noqa: PT017
        else:
            # White space between values may change: what is read is what was written.
            assert content["step"] == 3
            assert digests(tmp_path, content).keys() == {"backbone.pt"}


def test_what_is_wrong_with_a_file_is_said(tmp_path: Path) -> None:
    digest = write(tmp_path)
    file = tmp_path / "backbone.pt"
    assert damage(tmp_path, "backbone.pt", digest, read=True) is None
    flip_bit(file)
    assert damage(tmp_path, "backbone.pt", digest, read=False) is None
    assert "hash" in str(damage(tmp_path, "backbone.pt", digest, read=True))
    file.write_bytes(b"abc")
    assert "3,000" in str(damage(tmp_path, "backbone.pt", digest, read=False))
    file.unlink()
    assert "backbone.pt" in str(damage(tmp_path, "backbone.pt", digest, read=False))


GOOD = {"backbone.pt": {"bytes": 1, "xxh3": ""}}


@pytest.mark.parametrize(
    "files",
    [
        {}, [], None, "backbone.pt", {"state/__0_0.distcp": {"bytes": 1, "xxh3": ""}},
        {"backbone.pt": {}}, {"backbone.pt": {"bytes": "x", "xxh3": ""}},
        {**GOOD, "state/../../x": {"bytes": 1, "xxh3": ""}},
        {**GOOD, "/etc/passwd": {"bytes": 1, "xxh3": ""}},
    ],
)  # fmt: skip
def test_only_a_list_of_files_that_a_save_writes_is_accepted(tmp_path: Path, files: object) -> None:
    assert digests(tmp_path, {"files": GOOD}) == {"backbone.pt": FileDigest(1, "")}
    with pytest.raises(CheckpointError, match=r"run\.json"):
        digests(tmp_path, {"files": files})


@pytest.mark.parametrize("text", ["", "[]", "3", "{", '{"format": 2}', "[" * 100_000, "\xff"])
def test_a_run_json_that_no_save_wrote_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "run.json").write_bytes(text.encode("latin1"))
    with pytest.raises(CheckpointError, match=r"run\.json"):
        read_metadata(tmp_path)


def write_to_a_full_disk(path: Path) -> None:
    with digesting(path) as file:
        file.error = OSError(errno.ENOSPC, "full")
        raise RuntimeError("unexpected pos 704 vs 598")


def test_an_error_of_the_disk_is_not_hidden_by_what_it_causes(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="full") as caught:
        write_to_a_full_disk(tmp_path / "x")
    assert caught.value.errno == errno.ENOSPC


def test_an_existing_file_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "x").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FileExistsError), digesting(tmp_path / "x"):
        pass
    assert not (tmp_path / "elsewhere").exists()


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with open_regular(tmp_path / "file") as stream:
        assert stream.read() == b"x"
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    for name in ("pipe", "link", ".", "missing"):
        with pytest.raises(OSError), open_regular(tmp_path / name):  # noqa: PT011
            pass


def test_every_file_of_a_checkpoint_is_listed(tmp_path: Path) -> None:
    [folder] = save_steps(tmp_path, 1)
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    listed = json.loads((folder / "run.json").read_text())["files"]
    assert found == {*listed, "run.json"}
