import math

import pytest
import torch
from torch import Tensor

from recognition.distributed import shard_range
from recognition.head.hashing import class_hash
from recognition.head.sampling import rule
from recognition.head.sampling.build import SAMPLINGS
from recognition.head.sampling.rule import ActiveSet, SampleRequest
from tests.recognition.head.helpers import LABEL_RULES


def _active(
    name: str,
    labels: list[int],
    *,
    classes: int = 5000,
    rate: float = 0.1,
    seed: int = 0,
    step: int = 0,
    ranks: int = 1,
) -> tuple[Tensor, list[ActiveSet]]:
    """Return the active class ids of all ranks together, and each rank's answer."""
    ids, answers = [], []
    for rank in range(ranks):
        start, stop = shard_range(classes, ranks, rank)
        request = SampleRequest(torch.tensor(labels), start, stop, classes, rate, seed, step)
        answers.append(SAMPLINGS[name]()(request))
        rows = answers[-1].rows
        ids.append(start + (torch.arange(rows.count) if rows.index is None else rows.index))
    return torch.cat(ids), answers


def test_all_takes_every_class() -> None:
    ids, (answer,) = _active("all", [3, 4, 3])

    assert torch.equal(ids, torch.arange(5000))
    assert answer.positive_classes.item() == 2


def test_positives_only_takes_the_batch() -> None:
    ids, answers = _active("positives_only", [4999, 7, 3, 7], ranks=3)

    assert ids.tolist() == [3, 7, 4999]
    assert [answer.positive_classes.item() for answer in answers] == [3, 3, 3]
    assert not answers[0].overflow


@pytest.mark.parametrize("rate", [0.05, 0.1, 0.5])
def test_random_negative_meets_its_quota_and_keeps_the_batch(rate: float) -> None:
    labels = list(range(0, 5000, 100))
    counts = []
    for step in range(50):
        ids, (answer,) = _active("random_negative", labels, rate=rate, step=step)
        assert set(labels) <= set(ids.tolist())
        assert not answer.overflow
        counts.append(len(ids))
    # A binomial count; the mean of 50 has a standard deviation of at most sqrt(M / 50).
    quota = math.ceil(rate * 5000)
    assert abs(sum(counts) / 50 - quota) < 4 * math.sqrt(quota / 50)


@pytest.mark.parametrize("rate", [0.05, 0.1, 0.5])
def test_random_all_meets_its_quota_whatever_the_batch_holds(rate: float) -> None:
    labels = list(range(0, 5000, 20))
    counts, held = [], []
    for step in range(50):
        ids, (answer,) = _active("random_all", labels, rate=rate, step=step)
        other, _ = _active("random_all", [4], rate=rate, step=step)
        assert torch.equal(ids, other)
        assert answer.positive_classes.item() == 250
        counts.append(len(ids))
        held.append(len(set(labels) & set(ids.tolist())))
    # Binomial counts; the means of 50 have a standard deviation of at most sqrt(count / 50).
    quota = math.ceil(rate * 5000)
    assert abs(sum(counts) / 50 - quota) < 4 * math.sqrt(quota / 50)
    assert abs(sum(held) / 50 - rate * 250) < 4 * math.sqrt(rate * 250 / 50)


def test_random_all_never_overflows_and_takes_all_at_rate_one() -> None:
    ids, (answer,) = _active("random_all", list(range(100)), classes=100, rate=0.05)
    every, _ = _active("random_all", [3], rate=1.0)

    assert not answer.overflow
    assert len(ids) < 30
    assert torch.equal(every, torch.arange(5000))


def test_chunks_of_the_hash_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, _ = _active("random_negative", [5, 4000], step=2)
    monkeypatch.setattr(rule, "_CHUNK_OF_THREAD", 7)

    pieces, _ = _active("random_negative", [5, 4000], step=2, ranks=2)

    assert torch.equal(whole, pieces)


def test_rate_one_takes_every_class() -> None:
    ids, _ = _active("random_negative", [3], rate=1.0)

    assert torch.equal(ids, torch.arange(5000))


@pytest.mark.parametrize(("labels", "overflow"), [(30, True), (10, True), (9, False)])
def test_positives_beyond_the_quota_are_all_taken_and_reported(labels: int, overflow: bool) -> None:
    ids, (answer,) = _active("random_negative", list(range(labels)), classes=100, rate=0.1)

    assert bool(answer.overflow) == overflow
    assert ids.tolist()[:labels] == list(range(labels))
    if overflow:
        assert len(ids) == labels


def test_every_class_in_the_batch_leaves_nothing_to_draw() -> None:
    ids, (answer,) = _active("random_negative", list(range(10)), classes=10, rate=1.0)

    assert torch.equal(ids, torch.arange(10))
    assert answer.positive_classes.item() == 10


@pytest.mark.parametrize("name", LABEL_RULES)
def test_sets_do_not_depend_on_the_number_of_ranks(name: str) -> None:
    alone, _ = _active(name, [1, 50, 4999], step=7)
    for ranks in (2, 3, 7):
        together, _ = _active(name, [1, 50, 4999], step=7, ranks=ranks)
        assert torch.equal(alone, together)


def test_sets_change_with_step_and_seed_and_with_nothing_else() -> None:
    first, _ = _active("random_negative", [5], step=3, seed=11)
    torch.manual_seed(1)
    again, _ = _active("random_negative", [5], step=3, seed=11)
    later, _ = _active("random_negative", [5], step=4, seed=11)
    other, _ = _active("random_negative", [5], step=3, seed=12)

    assert torch.equal(first, again)
    for changed in (later, other):
        shared = len(set(first.tolist()) & set(changed.tolist()))
        # Independent draws of 500 in 5000 have 50 in common, with a standard deviation below 7.
        assert abs(shared - 50) < 30


def test_hash_is_uniform_and_the_same_in_every_version() -> None:
    drawn = class_hash(torch.arange(1 << 16), seed=0, step=0)

    assert drawn.min() >= 0
    assert drawn.max() < 1 << 32
    counts = torch.bincount(drawn >> 24, minlength=256).double()
    # Chi-square with 255 degrees of freedom: mean 255, standard deviation 23.
    assert ((counts - 256).square() / 256).sum() < 255 + 5 * 23
    # A run of an older version must resume with the same sets: these may never change.
    assert drawn[:3].tolist() == [3120268983, 1808276885, 1572250755]


def test_hash_works_at_any_class_id_without_overflow() -> None:
    near_the_end = torch.arange((1 << 31) - 1000, 1 << 31)

    drawn = class_hash(near_the_end, seed=5, step=10**12)

    assert len(set(drawn.tolist())) == 1000
    assert (drawn >= 0).all()
