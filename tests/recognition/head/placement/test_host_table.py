"""Blocks of a table in CPU memory: their rows, their ways, and what the host waits for."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from recognition.head import PartialFC
from recognition.head.batch import check_batch
from recognition.head.kernels.workspace import Workspace
from recognition.head.optim.rounding import RowNoise
from recognition.head.optim.storage import encode, zero_rows
from recognition.head.placement.host_table import HostTable
from recognition.head.placement.table import Table
from recognition.head.placement.transfer import HostRows
from recognition.head.rows import RowSet
from tests.recognition.head.fake_gpu import CountingGpu, fake_gpu_mode

ROWS, SIZE = 50, 4
ROW_BYTES = SIZE * 4


def _tensors(*, int8: bool = False) -> tuple[Tensor, dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(ROWS, SIZE, generator=generator)
    if int8:
        state = zero_rows("weight", ROWS, SIZE, torch.int8, "cpu")
        state |= zero_rows("momentum", ROWS, SIZE, torch.int8, "cpu")
        noise = RowNoise(0, 0, ROWS, tensor="weight")
        encode(weight, noise, state["weight"], state["weight_scale"], torch.empty_like(weight))
        return state.pop("weight"), state
    return weight, {"momentum": torch.zeros(ROWS, SIZE, dtype=torch.bfloat16)}


def _host_table(*, int8: bool = False, **options: Any) -> HostTable:
    settings = {"device": torch.device("cpu"), "stage_bytes": 0, **options}
    return HostTable(*_tensors(int8=int8), **settings)


def _sum(table: Table, rows: RowSet, size: int) -> Tensor:
    """Return what a pass reads."""
    blocks = table.iter_blocks(rows, rows.blocks(size), Workspace())
    return torch.cat([block.read("weight").clone() for block in blocks])


def _update(table: Table, rows: RowSet, size: int) -> None:
    blocks = table.iter_blocks(rows, rows.blocks(size), Workspace(), with_state=True)
    for number, block in enumerate(blocks):
        block.read("weight").mul_(1.5).add_(number)
        block.read("momentum").add_(block.read("weight"))
        block.write(RowNoise(0, 0, torch.arange(len(block))))


@pytest.mark.parametrize("buffer_rows", [1, 3, 1000])
@pytest.mark.parametrize("stage_rows", [0, 7, 1000])
@pytest.mark.parametrize("picked", [True, False])
@pytest.mark.parametrize("int8", [False, True])
def test_passes_read_and_write_as_on_the_device(
    buffer_rows: int, stage_rows: int, picked: bool, int8: bool
) -> None:
    table, row_bytes = Table(*_tensors(int8=int8)), SIZE + 4 if int8 else ROW_BYTES
    host = _host_table(
        int8=int8, buffer_bytes=buffer_rows * row_bytes, stage_bytes=stage_rows * row_bytes
    )
    for step, size in enumerate((6, 20, 1, 100)):
        index = torch.arange(step, ROWS, 2 + step)
        rows = RowSet(len(index), index) if picked else RowSet(ROWS)
        if stage_rows:
            host.stage(rows)
        assert torch.equal(_sum(host, rows, size), _sum(table, rows, size))
        for each in (table, host):
            _update(each, rows, size)
            each.finish()
            each.release()
        for name, tensor in table.tensors().items():
            assert torch.equal(getattr(host, name), tensor)


def test_no_rows_at_all_are_no_blocks() -> None:
    host = _host_table()

    assert list(host.iter_blocks(RowSet(0), RowSet(0).blocks(5), Workspace())) == []


def test_two_blocks_are_sent_ahead_into_memory_that_is_free(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The third of three slots is free at once; the first only when its rows are in the table."""
    gathered: list[int] = []
    may_return, gather = threading.Event(), HostRows.gather

    def gather_seen(rows: HostRows, out: Tensor) -> None:
        gather(rows, out)
        gathered.append(rows.start)

    monkeypatch.setattr(HostRows, "gather", gather_seen)
    host, rows = HostTable(_tensors()[0], {}, device=torch.device("cpu"), stage_bytes=0), RowSet(40)
    for _ in range(2):  # both threads of that direction
        host._from_device._pool.submit(may_return.wait, 10)
    blocks = host.iter_blocks(rows, rows.blocks(10), Workspace())
    for number in range(2):
        block = next(blocks)
        block.read("weight").fill_(float(number))
        block.write()
    next(blocks)  # so 30 to 39 is wanted in the memory of 0 to 9
    assert sorted(gathered) == [0, 10, 20]
    may_return.set()
    last = next(blocks)

    assert sorted(gathered) == [0, 10, 20, 30]
    assert torch.equal(last.read("weight"), _tensors()[0][30:40])
    assert next(blocks, None) is None
    assert host.weight[:20, 0].tolist() == [0.0] * 10 + [1.0] * 10


def test_a_failed_write_is_raised_and_the_next_pass_is_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def scatter(rows: HostRows, source: Tensor) -> None:
        raise OSError("of the test")

    host, rows = _host_table(), RowSet(ROWS)
    monkeypatch.setattr(HostRows, "scatter", scatter)
    with pytest.raises(OSError, match="of the test"):
        _update(host, rows, 5)
    with pytest.raises(OSError, match="of the test"):
        host.finish()

    assert torch.equal(_sum(host, rows, 5), _tensors()[0])


def test_a_pass_that_is_given_up_leaves_the_next_one_whole() -> None:
    host, rows = _host_table(buffer_bytes=2 * ROW_BYTES), RowSet(ROWS)
    blocks = host.iter_blocks(rows, rows.blocks(5), Workspace())
    next(blocks)
    blocks.close()  # type: ignore[attr-defined]

    assert torch.equal(_sum(host, rows, 9), _tensors()[0])


@pytest.fixture
def fake_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[CountingGpu]:
    with fake_gpu_mode(monkeypatch) as mode:
        yield mode


def test_a_step_copies_the_index_to_the_host_once_and_pins_four_buffers(
    fake_gpu: CountingGpu,
) -> None:
    weight, state = torch.empty(10_000, 8), {"momentum": torch.empty(10_000, 8)}
    table = HostTable(
        weight, state, device=torch.device("cuda", 0), stage_bytes=40_000, buffer_bytes=4096
    )
    rows = RowSet(3000, torch.empty(3000, dtype=torch.int64, device="cuda"))
    table.stage(rows)
    for with_state in (False, False, True):
        bounds = rows.blocks(1000)
        for block in table.iter_blocks(rows, bounds, Workspace(), with_state=with_state):
            assert block.read("weight").device == table.device
            if with_state:
                block.write()
    table.release()

    assert fake_gpu.to_host[torch.int64] == 1
    assert fake_gpu.to_host[torch.float32] == 2 * 3 * 8  # 1000 rows go through buffers of 128
    assert fake_gpu.pinned == 4 * 4096


@pytest.mark.parametrize("placement", ["host", "sharded"])
def test_a_gpu_without_an_index_takes_the_embeddings_of_the_current_one(
    fake_gpu: CountingGpu, placement: str
) -> None:
    head = PartialFC(8, 100, placement=placement, device="cuda")
    embeddings = torch.empty(3, 8, device="cuda")

    assert head.device == embeddings.device == torch.device("cuda", 0)
    check_batch(embeddings, torch.empty(3, dtype=torch.int64, device="cuda"), 8, head.device, 100)
