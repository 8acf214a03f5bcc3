"""Threads in parallel on parts of the rows: order, failures, and equal bits for any number."""

import copy
import pickle
import threading
import time
from collections.abc import Iterator

import pytest
import torch

from recognition.head import PartialFC
from recognition.head.kernels.reference import BlockOps
from recognition.head.online_softmax.threads import Threads
from recognition.head.rows import Bounds, RowSet

CPU = torch.device("cpu")


@pytest.fixture(params=[1, 2, 3])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("rows", [0, 1, 10, 1000])
def test_every_row_is_in_one_part_and_results_come_in_order(threads: int, rows: int) -> None:
    seen: set[str] = set()

    def part(ops: BlockOps, part: Bounds) -> list[tuple[int, int]]:
        seen.add(threading.current_thread().name)
        assert not torch.is_grad_enabled() or threads == 1 or rows <= 10
        return list(part)

    results = Threads(CPU, parallel=True).map(part, RowSet(rows).blocks(10))
    bounds = [each for result in results for each in result]
    assert bounds == [(start, min(start + 10, rows)) for start in range(0, rows, 10)]
    assert torch.get_num_threads() == threads
    if rows == 1000:
        assert any(name.startswith("head") for name in seen) == (threads > 1)


def test_without_parallel_the_caller_does_all_rows_as_one_part(threads: int) -> None:
    def part(ops: BlockOps, part: Bounds) -> tuple[int, int, int]:
        return threading.get_ident(), part[0][0], part[-1][1]

    found = list(Threads(CPU, parallel=False).map(part, RowSet(1000).blocks(10)))
    assert found == [(threading.get_ident(), 0, 1000)]


def test_a_failure_is_raised_and_leaves_torch_and_the_threads_as_they_were(threads: int) -> None:
    workers = Threads(CPU, parallel=True)

    def fail(ops: BlockOps, part: Bounds) -> int:
        if part[0][0] <= 500 < part[-1][1]:
            raise ValueError("row 500 is bad")
        return part[0][0]

    for _ in range(3):
        with pytest.raises(ValueError, match="row 500 is bad"):
            list(workers.map(fail, RowSet(1000).blocks(10)))
        assert torch.get_num_threads() == threads
    assert (
        sum(workers.map(lambda ops, part: part[-1][1] - part[0][0], RowSet(1000).blocks(10)))
        == 1000
    )


def test_a_failure_is_raised_once_no_other_part_is_running() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    begun, failed = threading.Event(), threading.Event()
    running: list[int] = []

    def part(ops: BlockOps, part: Bounds) -> None:
        if part[0][0] == 0:
            begun.wait(10)
            failed.set()
            raise ValueError("the first part is bad")
        running.append(part[0][0])
        begun.set()
        failed.wait(10)
        time.sleep(0.2)
        running.remove(part[0][0])

    with pytest.raises(ValueError, match="the first part is bad"):
        list(Threads(CPU, parallel=True).map(part, RowSet(1000).blocks(10)))
    assert running == []
    torch.set_num_threads(before)


def test_operations_serve_one_part_at_a_time() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    busy: set[int] = set()
    lock = threading.Lock()

    def part(ops: BlockOps, part: Bounds) -> int:
        with lock:
            assert id(ops) not in busy
            busy.add(id(ops))
        torch.ones(1000).sum()
        assert torch.get_num_threads() == 1
        with lock:
            busy.remove(id(ops))
        return 1

    assert sum(Threads(CPU, parallel=True).map(part, RowSet(1000).blocks(10))) == 17
    torch.set_num_threads(before)


@pytest.mark.slow
@pytest.mark.parametrize("sampling", ["all", "random_negative"])
@pytest.mark.parametrize("keep_bytes", [0, 1 << 20])
def test_a_head_gives_the_same_bits_on_any_number_of_threads(
    sampling: str, keep_bytes: int
) -> None:
    before, results = torch.get_num_threads(), []
    for threads in (1, 2, 4):
        torch.set_num_threads(threads)
        head = PartialFC(
            16, 331, sampling=sampling, sample_rate=0.6, block_bytes=4000, keep_bytes=keep_bytes
        )
        generator = torch.Generator().manual_seed(0)
        for _ in range(3):
            x = torch.randn(9, 16, generator=generator).requires_grad_()
            output = head(x, torch.randint(331, (9,), generator=generator))
            output.loss.backward()
            norm = head.gradient_norm()
            head.step(0.1)
        assert x.grad is not None
        results.append([output.loss.detach(), norm, x.grad, *head.state_tensors().values()])
    torch.set_num_threads(before)
    for other in results[1:]:
        for found, expected in zip(other, results[0], strict=True):
            assert torch.equal(found, expected)


@pytest.mark.slow
@pytest.mark.parametrize("placement", ["sharded", "host"])
def test_many_samples_of_a_class_add_up_to_the_same_bits(placement: str) -> None:
    """So many numbers that torch would sum them on several threads, with classes on two of them."""
    before, weights = torch.get_num_threads(), []
    x = torch.randn(256, 512, generator=torch.Generator().manual_seed(0))
    for threads in (1, 2, 2, 3):
        torch.set_num_threads(threads)
        head = PartialFC(512, 3000, sampling="all", placement=placement)
        head(x.clone().requires_grad_(), torch.arange(256) // 3).loss.backward()
        head.step(0.1)
        weights.append(head.weight.clone())
    torch.set_num_threads(before)
    for other in weights[1:]:
        assert torch.equal(other, weights[0])


def test_a_head_in_use_can_be_copied_and_pickled(threads: int) -> None:
    head = PartialFC(16, 331, block_bytes=4000)
    x = torch.ones(2, 16).requires_grad_()
    head(x, torch.arange(2)).loss.backward()
    head.step(0.1)
    for other in (copy.deepcopy(head), pickle.loads(pickle.dumps(head))):
        output = other(x, torch.arange(2))
        assert torch.equal(output.loss, head(x, torch.arange(2)).loss)
