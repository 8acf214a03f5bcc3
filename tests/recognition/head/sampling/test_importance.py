"""Rows drawn by their share in the softmax: exact loss, gradients that are right on average."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from recognition.head import PartialFC, RowSGD, build_loss
from recognition.head.kernels.block import LogitTransform
from recognition.head.kernels.cpu import CompiledOps
from recognition.head.kernels.reference import BlockOps
from recognition.head.sampling.importance import _log2_tau
from tests.recognition.head.helpers import scene
from tests.recognition.head.reference import (
    ADAFACE,
    COSFACE,
    CURRICULARFACE,
    D_SOFTMAX_B,
    LOSS_CASES,
    SUBCENTER,
    DenseHead,
    LossCase,
)

CLASSES, SIZE, SAMPLES, DRAWS = 300, 16, 10, 100


def _head(case: LossCase, rate: float, **options: Any) -> tuple[PartialFC, Tensor, Tensor]:
    """Return a head with centres in groups, and a batch near its target centres."""
    loss = build_loss(case.name, **case.options)
    people = scene(CLASSES, SAMPLES, loss.centres_per_class, SIZE)
    head = PartialFC(
        SIZE, CLASSES, sampling="importance", sample_rate=rate, loss=loss, scale=24.0,
        optimizer=RowSGD(momentum=0.0, weight_decay=0.0), update="frozen", **options,
    )  # fmt: skip
    head.state_rows()["weight"].write(0, people.weight.flatten(1))
    return head, 20.0 * people.unit, people.labels


def _gradients(head: PartialFC, x: Tensor, y: Tensor) -> tuple[float, Tensor, Tensor]:
    """Return the loss and the gradients of a step, which does not change the centres."""
    head.running.copy_(torch.tensor(head.loss.initial))
    before, x = head.weight.clone(), x.clone().requires_grad_()
    loss = head(x, y).loss
    loss.backward()
    head.step(1.0)
    assert x.grad is not None
    by_weight = before.double() - head.weight.double()
    head.state_rows()["weight"].write(0, before)
    return loss.item(), x.grad.double(), by_weight


def _dense(case: LossCase, head: PartialFC, x: Tensor, y: Tensor) -> tuple[float, Tensor, Tensor]:
    dense = DenseHead(head.weight, case, scale=24.0)
    picked = None
    if head.loss.batch_rate < 1.0:
        pytest.skip("which samples' negatives count differs from step to step")
    loss, by_x, by_weight = dense.loss_and_gradients(x, y, torch.arange(CLASSES), picked)
    return loss.item(), by_x, by_weight


@pytest.mark.parametrize("case", LOSS_CASES, ids=lambda case: case.name)
def test_gradients_are_right_on_average(case: LossCase) -> None:
    head, x, y = _head(case, 0.2)
    expected, *exact = _dense(case, head, x, y)

    drawn = [_gradients(head, x, y) for _ in range(DRAWS)]

    assert [loss for loss, *_ in drawn] == pytest.approx([expected] * DRAWS, rel=1e-5)
    for found, right in zip(zip(*[each[1:] for each in drawn], strict=True), exact, strict=True):
        errors = torch.stack(found) - right
        spread = errors.square().mean().sqrt()
        off = errors.mean(0).square().mean().sqrt()
        # As means of so many independent draws would be, 1 but for chance.
        assert 0.7 < off / spread * DRAWS**0.5 < 1.3
        assert spread < right.square().mean().sqrt()


@pytest.mark.parametrize("case", [COSFACE, CURRICULARFACE, SUBCENTER, D_SOFTMAX_B], ids=repr)
def test_a_budget_of_all_classes_gives_the_bits_of_all(case: LossCase) -> None:
    head, x, y = _head(case, 1.0)
    whole, *_ = _head(case, 1.0)
    whole._selection = PartialFC(SIZE, CLASSES, sampling="all")._selection

    assert torch.equal(_gradients(head, x, y)[2], _gradients(whole, x, y)[2])


def test_micro_batches_add_up_to_gradients_that_are_right_on_average() -> None:
    head, x, y = _head(COSFACE, 0.2, block_bytes=20_000, keep_bytes=0)
    _, _, right = _dense(COSFACE, head, x, y)
    before, errors = head.weight.clone(), []
    for _ in range(DRAWS):
        for part in (slice(0, 3), slice(3, SAMPLES)):
            (head(x[part], y[part]).loss * (len(y[part]) / SAMPLES)).backward()
        head.step(1.0)
        errors.append(before.double() - head.weight.double() - right)
        head.state_rows()["weight"].write(0, before)
    found = torch.stack(errors)

    off = found.mean(0).square().mean().sqrt() / found.square().mean().sqrt()
    assert 0.7 < off * DRAWS**0.5 < 1.3


@pytest.mark.parametrize("rate", [0.1, 0.3])
def test_as_many_classes_are_drawn_as_the_budget_says(rate: float) -> None:
    head, x, y = _head(COSFACE, rate)
    counts = []
    for _ in range(60):
        output = head(x, y)
        counts.append(output.active_classes)
        head.step_count += 1

    assert min(counts) >= len(set(y.tolist()))
    assert sum(counts) / len(counts) == pytest.approx(rate * CLASSES, rel=0.05)


def test_rows_of_large_share_are_always_drawn_and_the_batch_s_own_count_once() -> None:
    head, x, y = _head(COSFACE, 0.3)
    seen = []
    for _ in range(20):
        head(x, y).loss.backward()
        loss = head._update.losses.pop()
        assert loss.gain is not None
        gains = torch.zeros(CLASSES).index_put_((loss.rows.index,), loss.gain)
        assert (gains[y] == 1.0).all()
        assert (loss.gain >= 1.0).all()
        seen.append(gains)
        head.step_count += 1
    gains = torch.stack(seen)

    certain = (gains == 1.0).all(0)
    certain[y] = False
    assert certain.any()
    # A class that is drawn at times has the same gain each time.
    at_times = (gains > 1.0).any(0)
    most, least = gains.amax(0), gains.masked_fill(gains == 0.0, math.inf).amin(0)
    torch.testing.assert_close(most[at_times], least[at_times])
    assert ((gains > 0).float().mean(0)[at_times] < 1.0).any()


def test_without_gradients_no_class_is_drawn() -> None:
    head, x, y = _head(COSFACE, 0.2)
    with torch.no_grad():
        output = head(x, y)

    assert output.active_classes == CLASSES


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_compiled_scores_are_those_of_torch(dtype: torch.dtype) -> None:
    classes, samples, first = 70, 33, 5
    product, inverse = torch.randn(classes, samples).to(dtype), torch.rand(classes) / 4 + 0.1
    target = torch.randint(0, classes + first, (samples,))
    target[0] = target[1] = first + 3
    estimate = torch.randn(samples) * 20
    transform = LogitTransform(20.0, inter_class_filter=0.5)
    product[7] = 9.0  # above the limit: nobody's negative
    seen = []
    for ops in (CompiledOps(), BlockOps()):
        sums = torch.rand(samples, generator=torch.Generator().manual_seed(1))
        largest = torch.full((samples,), transform.initial_max)
        given = target, first, transform, largest, sums, estimate
        found = torch.empty(classes), torch.empty(classes, dtype=torch.int16)
        ops.score_block(product.clone(), inverse, *given, *found)
        seen.append((*found, sums))
    (logit, sample, sums), (expected, _, of_sums) = seen

    negative = product.float() * inverse.unsqueeze(1) * transform.log2_scale
    negative[negative > transform.limit * transform.log2_scale] = -math.inf
    for number, row in enumerate((target - first).tolist()):
        if row >= 0:
            negative[row, number] = -math.inf
    mattering = (negative - estimate).argmax(1)
    assert not torch.equal(mattering, negative.argmax(1))  # the estimates decide here
    known = expected.isfinite()
    assert not known.all()
    assert torch.equal(sample[known].long(), mattering[known])
    assert torch.equal(logit.isfinite(), negative.amax(1).isfinite())
    torch.testing.assert_close(logit, negative.gather(1, mattering.unsqueeze(1)).squeeze(1))
    torch.testing.assert_close(sums, of_sums)
    # What torch finds it reads from exponentials in `dtype`.
    torch.testing.assert_close(logit[known], expected[known], rtol=0, atol=0.02)


def test_tau_makes_the_expected_number_the_budget() -> None:
    log2_share = -torch.arange(1, 2000, dtype=torch.float64) / 100
    counts = torch.zeros(64 * 32, dtype=torch.int64)
    counts.index_add_(0, (log2_share * 32).floor().long() + 64 * 32, torch.ones(1999).long())

    for budget in (1, 50, 700, 1998):
        tau = _log2_tau(counts, budget)
        assert (log2_share - tau).clamp_max(0).exp2().sum() == pytest.approx(budget, rel=0.02)
    assert _log2_tau(counts, 1999) == -math.inf
    assert _log2_tau(counts, 0) == math.inf


def test_a_running_average_of_norms_keeps_the_draw_exact() -> None:
    head, x, y = _head(ADAFACE, 0.2)
    first, second = (_gradients(head, x, y)[0] for _ in range(2))

    assert first == second
