"""Rows drawn by their share in the softmax: exact loss, gradients that are right on average."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from recognition.head import PartialFC, RowSGD, build_loss
from recognition.head.kernels.block import LogitTransform
from recognition.head.kernels.cpu import CompiledOps
from recognition.head.kernels.reference import COSINE_STEP, BlockOps, read_keys, score_keys
from recognition.head.online_softmax.scores import RowScores
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
@pytest.mark.parametrize("make_ops", [BlockOps, CompiledOps])
@pytest.mark.parametrize(
    ("samples", "key"), [(33, torch.int32), (33, torch.int64), (1, torch.int32)]
)
def test_the_two_nearest_samples_of_a_class_are_found(
    make_ops: type[BlockOps], dtype: torch.dtype, samples: int, key: torch.dtype
) -> None:
    classes, first = 70, 5
    product, inverse = torch.randn(classes, samples).to(dtype), torch.rand(classes) / 4 + 0.1
    target = torch.randint(0, classes + first, (samples,))
    target[:2] = first + 3
    transform = LogitTransform(20.0, inter_class_filter=0.5)
    product[7] = 9.0  # above the limit: nobody's negative
    product[8, 0] = math.nan
    cosine = product.double() * inverse.double().unsqueeze(1)
    cosine[cosine > transform.limit] = -math.inf
    for number, row in enumerate((target - first).tolist()):
        if row >= 0:
            cosine[row, number] = -math.inf
    sums = torch.zeros(samples)
    largest = torch.full((samples,), transform.initial_max)
    keys = torch.zeros(2, classes, dtype=key)
    make_ops().score_block(product, inverse, target, first, transform, largest, sums, keys)

    found, sample = read_keys(keys)
    assert (found[0] >= found[1]).all()
    cosine[cosine.isnan()] = -math.inf
    nearest = cosine.topk(min(2, samples), 1)
    # The compiled loop reads products; torch reads exponentials, which are rounded to `dtype`.
    compiled = make_ops is CompiledOps and key == torch.int32
    bound = COSINE_STEP if dtype == torch.float32 or compiled else 5e-4
    for number in range(min(2, samples)):
        expected = nearest.values[:, number]
        known = expected.isfinite()
        assert torch.equal(found[number].isfinite(), known)
        assert (found[number] - expected)[known].abs().max() <= bound
        at_sample = cosine.gather(1, sample[number].long().unsqueeze(1)).squeeze(1)
        assert (at_sample - expected)[known].abs().max() <= bound
    if samples == 1:
        assert found[1].isneginf().all()
    exps = (cosine.nan_to_num(neginf=-50.0) * transform.log2_scale - transform.initial_max).exp2()
    torch.testing.assert_close(sums[1:].double(), exps.sum(0)[1:], rtol=1e-5, atol=0.0)
    assert sums[0].isnan()


def test_a_share_is_that_of_the_sample_to_which_the_class_matters_most() -> None:
    cosine = torch.tensor([[0.9, 0.5, -math.inf], [0.6, 0.59, 0.1], [0.2, -math.inf, -math.inf]])
    keys = score_keys(cosine.clone(), torch.int32).topk(2, 1).values.T.contiguous()
    log2_total, weight = torch.tensor([40.0, 2.0, 1.0]), torch.tensor([1.0, 0.5, 2.0])

    shares = RowScores(keys, 20.0).log2_shares(log2_total, weight)

    # Of the second class the second nearest sample; the third is farther than two others.
    expected = torch.tensor([20 * 0.5 - 2 - 1, 20 * 0.59 - 2 - 1, 20 * 0.2 - 40])
    torch.testing.assert_close(shares, expected, rtol=0, atol=20 * COSINE_STEP)


def test_of_nobodys_negatives_no_share_is_made() -> None:
    keys = score_keys(torch.full((4, 3), -math.inf), torch.int32).topk(2, 1).values.T.contiguous()
    assert RowScores(keys, 20.0).log2_shares(torch.zeros(3), torch.ones(3)).isneginf().all()
    none = torch.zeros(2, 4, dtype=torch.int32)
    assert RowScores(none, 20.0).log2_shares(torch.zeros(0), torch.ones(0)).isneginf().all()


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
