import errno
import shutil
import threading
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.state_dict_loader import load as load_with_torch

from recognition.checkpoint import CheckpointError, ShardedRows, State
from recognition.checkpoint.contents import read_contents
from recognition.checkpoint.manifest import DigestingFile
from recognition.checkpoint.sharded import THREADS
from recognition.distributed import World, current
from tests.distributed_harness import run_ranks
from tests.recognition.checkpoint.states import (
    CLASSES,
    FIXTURES,
    TensorRows,
    assert_loaded,
    checkpoints,
    make_state,
    save_steps,
    table,
    values,
)

ROW_BYTES = 5 * 4


def contents(folder: Path) -> Any:
    return read_contents((folder / "state" / ".metadata").read_bytes())


def files_of(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.glob("state/*.distcp"))


class CountedRows(TensorRows):
    """Hands out copies, and counts the bytes of those that exist; of what is written, of each."""

    alive = most = largest_write = 0
    lock = threading.Lock()

    def read(self, start: int, stop: int) -> Tensor:
        part = super().read(start, stop).clone()
        self._count(part.nbytes)
        weakref.finalize(part, self._count, -part.nbytes)
        return part

    def write(self, start: int, rows: Tensor) -> None:
        CountedRows.largest_write = max(CountedRows.largest_write, rows.nbytes)
        super().write(start, rows)

    @classmethod
    def _count(cls, change: int) -> None:
        with cls.lock:
            cls.alive += change
            cls.most = max(cls.most, cls.alive)


@pytest.mark.parametrize("rows_per_chunk", [1, 2, 4])
def test_a_chunk_per_thread_is_copied_and_not_a_table(tmp_path: Path, rows_per_chunk: int) -> None:
    chunk_bytes = rows_per_chunk * ROW_BYTES
    CountedRows.most = CountedRows.largest_write = 0
    state = make_state(World(), chunk_bytes=chunk_bytes, rows=CountedRows)
    folder = checkpoints(tmp_path).save(1, state, best=False)
    assert CountedRows.alive == 0
    assert chunk_bytes <= CountedRows.most <= (THREADS + 1) * chunk_bytes
    assert len(files_of(folder)) == min(THREADS, -(-CLASSES // rows_per_chunk))
    empty = make_state(World(), empty=True, chunk_bytes=chunk_bytes, rows=CountedRows)
    checkpoints(tmp_path).load(folder, empty)
    assert CountedRows.largest_write == chunk_bytes
    assert_loaded(empty, World())


@pytest.mark.filterwarnings("ignore:torch.distributed is")
def test_torch_and_other_chunks_read_what_was_saved_in_chunks(tmp_path: Path) -> None:
    state = make_state(World(), chunk_bytes=2 * ROW_BYTES)
    folder = checkpoints(tmp_path).save(1, state, best=False)
    for chunk_bytes in (3 * ROW_BYTES, 10**9):
        empty = make_state(World(), empty=True, chunk_bytes=chunk_bytes)
        checkpoints(tmp_path).load(folder, empty)
        assert_loaded(empty, World())
    read = {name: torch.zeros(CLASSES, 5) for name in state.rows}
    load_with_torch(read, storage_reader=FileSystemReader(folder / "state"), no_dist=True)
    for name, tensor in read.items():
        assert torch.equal(tensor, table(name))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.int32, torch.float64])
def test_every_dtype_and_shape_of_rows_is_kept(tmp_path: Path, dtype: torch.dtype) -> None:
    expected = torch.arange(CLASSES).view(-1, 1).to(dtype)

    def state_of(tensor: Tensor) -> State:
        rows = {"steps": ShardedRows(TensorRows(tensor), CLASSES, 0, 4 * dtype.itemsize)}
        return State({"layer.weight": torch.ones(1)}, {}, rows, {})

    folder = checkpoints(tmp_path).save(1, state_of(expected), best=False)
    assert contents(folder).state_dict_metadata["steps"].properties.dtype == dtype
    empty = state_of(torch.zeros_like(expected))
    checkpoints(tmp_path).load(folder, empty)
    assert torch.equal(values(empty.rows["steps"]), expected)
    other = state_of(torch.zeros(CLASSES, 1))  # as after a change of head.momentum_dtype
    checkpoints(tmp_path).load(folder, other)
    assert torch.equal(values(other.rows["steps"]), expected.float())


@pytest.mark.parametrize("saved_on", ["one_rank", "two_ranks"])
def test_checkpoints_with_whole_tables_load(tmp_path: Path, saved_on: str) -> None:
    """Those of the fixtures were written when each rank's rows were saved as one tensor."""
    folder = FIXTURES / saved_on / "checkpoints" / "step_00000003"
    assert checkpoints(tmp_path).find(str(folder)) == folder
    state = make_state(World(), empty=True, chunk_bytes=2 * ROW_BYTES)
    assert checkpoints(tmp_path).load(folder, state)["progress"] == {"step": 3}
    # The last bits of torch's normal numbers depend on the processor that draws them.
    assert_loaded(state, World(), relative=1e-5)
    [own] = save_steps(tmp_path, 3)  # in one chunk
    before, now = contents(folder).state_dict_metadata, contents(own).state_dict_metadata
    assert before.keys() == now.keys()
    for name, metadata in before.items():
        assert (metadata.size, metadata.properties) == (now[name].size, now[name].properties)
    assert files_of(own) == ["__0_0.distcp"]


@pytest.mark.parametrize("file", range(THREADS))
def test_an_error_of_any_thread_ends_a_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: int
) -> None:
    write = DigestingFile.write

    def full_disk(self: DigestingFile, data: Any) -> int:
        if Path(self._file.name).name == f"__0_{file}.distcp":
            self.error = OSError(errno.ENOSPC, "No space left on device", self._file.name)
            raise self.error
        return write(self, data)

    monkeypatch.setattr(DigestingFile, "write", full_disk)
    state = make_state(World(), chunk_bytes=ROW_BYTES)
    with pytest.raises(CheckpointError, match=rf"__0_{file}\.distcp"):
        checkpoints(tmp_path).save(1, state, best=False)
    assert checkpoints(tmp_path).find("auto") is None


def save_in_chunks(output: Path) -> None:
    for name, whole in (("sharded", False), ("whole", True)):
        state = make_state(current(), chunk_bytes=2 * ROW_BYTES, whole=whole)
        checkpoints(output / name, current()).save(3, state, best=True)


def load_in_chunks(output: Path) -> None:
    for name in ("sharded", "whole", "one_rank", "two_ranks"):
        for whole in (False, True):
            folder = output / name / "checkpoints" / "step_00000003"
            state = make_state(current(), empty=True, chunk_bytes=4 * ROW_BYTES, whole=whole)
            checkpoints(output, current()).load(folder, state)
            assert_loaded(state, current(), whole=whole)


@pytest.mark.slow
def test_chunks_load_on_any_number_of_ranks_in_any_placement(tmp_path: Path) -> None:
    shutil.copytree(FIXTURES, tmp_path, dirs_exist_ok=True)
    run_ranks(save_in_chunks, 3, tmp_path)
    for name, expected in (("sharded", [0, 2, 3, 5, 6, 8]), ("whole", [0, 2, 4, 6, 8])):
        stored = contents(tmp_path / name / "checkpoints" / "step_00000003").storage_data
        # Of 3 + 3 + 3 rows, or of 9 that all ranks have: then each saves some of the chunks.
        assert sorted(i.offset[0] for i in stored if i.fqn == "head.weight") == expected
        ranks = {info.relative_path.split("_")[2] for info in stored.values()}
        assert ranks == {"0", "1", "2"}
    run_ranks(load_in_chunks, 2, tmp_path)
    load_in_chunks(tmp_path)
