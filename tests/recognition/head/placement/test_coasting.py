"""Rows that take no part in a step move as those of a dense optimizer do, on one rank."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from recognition.head import PartialFC, RowAdamW, RowOptimizer, RowSGD
from recognition.head.kernels.build import block_ops
from recognition.head.kernels.reference import BlockOps
from recognition.head.online_softmax import threads
from recognition.head.optim import history
from tests.recognition.head.helpers import active_classes
from tests.recognition.head.reference import COSFACE, DenseHead

CLASSES, SIZE, RATE, STEPS = 200, 16, 0.1, 24
OPTIMIZERS = [RowSGD(), RowSGD(nesterov=True), RowSGD(momentum=0.0), RowAdamW(weight_decay=0.02)]


def _head(optimizer: RowOptimizer, **options: Any) -> PartialFC:
    return PartialFC(SIZE, CLASSES, sample_rate=RATE, optimizer=optimizer, **options)


def _batch(step: int) -> tuple[Tensor, Tensor, float]:
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(7, SIZE, generator=generator)
    return x, torch.randint(0, CLASSES, (7,), generator=generator), 0.02 * (1 + step % 5)


def _train(head: PartialFC, first: int = 0, last: int = STEPS) -> None:
    for step in range(first, last):
        x, y, lr = _batch(step)
        head(x, y).loss.backward()
        head.step(lr)


def _dense(optimizer: RowOptimizer, start: Tensor, skipped: tuple[int, ...] = ()) -> Tensor:
    """Return the weight after all steps of torch's optimizer over the whole table, in float64."""
    dense = DenseHead(start, COSFACE)
    options = {key: value for key, value in vars(optimizer).items() if key != "momentum_dtype"}
    kind = torch.optim.AdamW if isinstance(optimizer, RowAdamW) else torch.optim.SGD
    stock = kind([dense.weight], **options)
    for step in range(STEPS):
        x, y, lr = _batch(step)
        active = active_classes("random_negative", y, CLASSES, rate=RATE, seed=0, step=step)
        _, _, dense.weight.grad = dense.loss_and_gradients(x, y, active)
        stock.param_groups[0]["lr"] = lr
        if step not in skipped:
            stock.step()
    return dense.weight


def _error(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("most_steps", [history.MOST_STEPS, 5])
@pytest.mark.parametrize("placement", ["sharded", "host"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=repr)
def test_every_row_moves_as_with_a_dense_optimizer(
    optimizer: RowOptimizer, placement: str, most_steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "MOST_STEPS", most_steps)
    head = _head(optimizer, placement=placement)
    expected = _dense(optimizer, head.weight)

    _train(head)

    assert _error(head.weight, expected) < 1e-4


def test_a_momentum_decays_in_missed_steps_of_rate_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = _batch
    monkeypatch.setattr(
        f"{__name__}._batch", lambda step: (*batch(step)[:2], 0.1 if step % 4 else 0.0)
    )
    head = _head(RowSGD())
    expected = _dense(RowSGD(), head.weight)
    for step in range(STEPS):
        x, y, lr = _batch(step)
        head(x, y).loss.backward()
        head.step(lr)

    assert _error(head.weight, expected) < 1e-4


@pytest.mark.parametrize("ops", [BlockOps, block_ops(torch.device("cpu"))])
def test_both_forms_of_the_operations_make_up_for_missed_steps(
    ops: type[BlockOps], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "block_ops", lambda device: ops)
    head = _head(RowSGD(), keep_bytes=0)
    expected = _dense(RowSGD(), head.weight)
    for step in range(STEPS):
        x, y, lr = _batch(step)
        head(x, y).loss.backward()
        assert head.step_figures()["gradient_norm_centres"].isfinite()
        head.step(lr)

    assert _error(head.weight, expected) < 1e-4


def test_a_momentum_in_bfloat16_is_right_on_average() -> None:
    optimizer = RowSGD(momentum_dtype=torch.bfloat16)
    start = _head(optimizer).weight
    expected = _dense(RowSGD(), start)

    errors = []
    for seed in range(8):
        head = _head(optimizer)
        head._update = copy.copy(head._update)
        object.__setattr__(head._update, "seed", seed)
        _train(head)
        errors.append(head.weight.double() - expected)
    alone = torch.stack(errors).square().mean().sqrt()
    together = torch.stack(errors).mean(0).square().mean().sqrt()

    assert alone < 0.02 * expected.square().mean().sqrt()
    assert together < 0.7 * alone  # eight that err independently: 0.35


@pytest.mark.parametrize("placement", ["sharded", "host"])
@pytest.mark.parametrize("optimizer", [RowSGD(), RowAdamW(weight_decay=0.02)], ids=repr)
def test_rows_that_are_read_twice_make_up_once(optimizer: RowOptimizer, placement: str) -> None:
    head = _head(optimizer, placement=placement)
    expected = _dense(optimizer, head.weight)
    for step in range(STEPS):
        x, y, lr = _batch(step)
        with torch.no_grad():
            head(x, y)
        head(x, y).loss.backward()
        head.step(lr)

    assert _error(head.weight, expected) < 1e-4


def test_a_skipped_step_moves_no_row() -> None:
    head = _head(RowSGD())
    expected = _dense(RowSGD(), head.weight, skipped=(3, 11))
    for step in range(STEPS):
        x, y, lr = _batch(step)
        head(x, y).loss.backward()
        head.step(lr, skip=step in (3, 11))

    assert _error(head.weight, expected) < 1e-4


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=repr)
def test_a_head_that_loads_what_another_one_saved_goes_on_to_the_bit(
    optimizer: RowOptimizer,
) -> None:
    whole, resumed = _head(optimizer), _head(optimizer)
    _train(whole, 0, 10)
    _train(resumed, 0, 4)  # what it had missed must not be made up for in the loaded rows
    for name, rows in whole.state_tensors().items():
        resumed.state_rows()[name].write(0, rows)
    resumed.step_count = whole.step_count
    loaded = _head(optimizer)
    loaded.load_state_dict(copy.deepcopy(whole.state_dict()))

    for head in (whole, resumed, loaded):
        _train(head, 10)

    for head in (resumed, loaded):
        assert torch.equal(head.weight, whole.weight)


def test_a_copy_of_a_head_moves_by_itself() -> None:
    head = _head(RowSGD())
    _train(head, 0, 8)
    other = copy.deepcopy(head)
    _train(other, 8)
    _train(head, 8)

    assert torch.equal(other.weight, head.weight)


def test_missed_steps_are_those_since_the_last_one() -> None:
    steps = history.StepHistory(torch.device("cpu"))
    matrices = [(0.9, -0.1, 0.2, 0.8), (0.7, 0.3, -0.1, 1.1), (1.0, 0.5, 0.25, 0.9)]
    for number, matrix in enumerate(matrices):
        steps.add(0.1 * number, matrix, skip=torch.tensor(number == 1))

    found = steps.missed(torch.tensor([0, 1, 2, 3], dtype=torch.int16)).factors.view(4, 2, 2)

    first, _, last = (torch.tensor(matrix, dtype=torch.float64).view(2, 2) for matrix in matrices)
    identity = torch.eye(2, dtype=torch.float64)
    torch.testing.assert_close(found, torch.stack([last @ first, last, last, identity]))
    order, made = steps.missed(torch.tensor([2, 0, 3])).in_order()
    assert order.tolist() == [1, 0, 2]
    assert [(rows, round(lr, 6)) for rows, lr in made] == [(1, 0.0), (2, 0.2)]
