"""Tests of `recognition.head.class_means`."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from recognition.distributed import World, current, part_range
from recognition.head import PartialFC, SeparateHeads
from recognition.head.class_means import SPREAD, start_from_class_means
from recognition.head.losses.margins import subcenter_arcface
from tests.distributed_harness import run_ranks

CLASSES, SIZE, BATCH, SEED = 11, 8, 5, 3
WITHOUT_IMAGES = [4, 10]


def samples() -> tuple[Tensor, Tensor]:
    """Return embeddings and labels, ascending: none of two classes, one to seven of the others."""
    generator = torch.Generator().manual_seed(0)
    counts = torch.arange(CLASSES) % 7 + 1
    counts[WITHOUT_IMAGES] = 0
    labels = torch.arange(CLASSES).repeat_interleave(counts)
    return torch.randn(len(labels), SIZE, generator=generator) + 0.5, labels


def batches(world: World) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield this rank's samples; the last batch is filled up, and one sample is not to be used."""
    embeddings, labels = samples()
    embeddings = torch.cat([embeddings[:3], torch.full((1, SIZE), 9.0), embeddings[3:]])
    labels = torch.cat([labels[:3], torch.tensor([-1]), labels[3:]])
    fill = -len(labels) % BATCH
    embeddings = torch.cat([embeddings, embeddings[:fill]])
    labels = torch.cat([labels, torch.full((fill,), -1)])
    start, stop = part_range(BATCH, world.size, world.rank)
    for first in range(0, len(labels), BATCH):
        yield embeddings[first + start : first + stop], labels[first + start : first + stop]


def dense_means() -> Tensor:
    embeddings, labels = samples()
    sums = torch.zeros(CLASSES, SIZE).index_add_(0, labels, normalize(embeddings))
    return normalize(sums)


def make_head(**options: object) -> PartialFC:
    return PartialFC(SIZE, CLASSES, seed=SEED, **options)  # type: ignore[arg-type]


def started(**options: object) -> PartialFC:
    head = make_head(**options)
    count = start_from_class_means(head, lambda x: x, batches(current()), SEED)
    assert count == CLASSES - len(WITHOUT_IMAGES)
    return head


@pytest.mark.parametrize("placement", ["sharded", "replicated", "host"])
@pytest.mark.parametrize(("storage", "error"), [("fp32", 1e-6), ("bf16", 2**-7), ("int8", 0.02)])
def test_centres_point_to_the_means_and_keep_their_norm(
    placement: str, storage: str, error: float
) -> None:
    random = make_head(placement=placement, storage=storage).weight.clone()
    weight = started(placement=placement, storage=storage).weight
    seen = torch.tensor([c for c in range(CLASSES) if c not in WITHOUT_IMAGES])
    unit = normalize(weight[seen])
    torch.testing.assert_close(unit, dense_means()[seen], rtol=0, atol=error)
    torch.testing.assert_close(weight.norm(dim=1), random.norm(dim=1), rtol=error * 2, atol=0)
    assert torch.equal(weight[WITHOUT_IMAGES], random[WITHOUT_IMAGES])
    assert not torch.allclose(normalize(random[seen]), dense_means()[seen], atol=0.3)


def test_several_centres_of_a_class_are_near_its_mean_and_differ() -> None:
    weight = started(loss=subcenter_arcface(k=3)).weight.view(CLASSES, 3, SIZE)
    seen = [c for c in range(CLASSES) if c not in WITHOUT_IMAGES]
    unit = normalize(weight[seen], dim=2)
    cosines = (unit * dense_means()[seen].unsqueeze(1)).sum(2)
    assert cosines.min() > (1 - SPREAD**2) ** 0.5 - 1e-5
    assert (unit[:, 0] - unit[:, 1]).norm(dim=1).min() > 0.05


FORMS = (
    {"placement": "sharded", "storage": "int8"},
    {"placement": "replicated", "storage": "fp32"},
)


def on_ranks() -> list[tuple[tuple[int, int], Tensor]]:
    heads = [started(**form) for form in FORMS]
    return [(head.shard, head.weight.clone()) for head in heads]


@pytest.mark.slow
def test_any_number_of_ranks_makes_the_same_centres() -> None:
    expected = [started(**form).weight for form in FORMS]
    for heads in run_ranks(on_ranks, 3):
        for ((start, stop), part), whole in zip(heads, expected, strict=True):
            assert torch.equal(part, whole[start:stop])


def test_heads_of_datasets_get_those_of_their_own_classes() -> None:
    counts = {"a": 4, "b": 6, "c": 1}
    heads = SeparateHeads(
        {n: PartialFC(SIZE, c, seed=SEED + k) for k, (n, c) in enumerate(counts.items())}
    )
    start_from_class_means(heads, lambda x: x, batches(World()), SEED)
    weight = torch.cat([head.weight for head in heads.by_dataset.values()])
    seen = [c for c in range(CLASSES) if c not in WITHOUT_IMAGES]
    torch.testing.assert_close(normalize(weight[seen]), dense_means()[seen])


def test_embeddings_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ValueError, match=r"class_means.*not finite"):
        start_from_class_means(make_head(), lambda x: x / 0, batches(World()), SEED)
