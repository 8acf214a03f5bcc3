import torch

from recognition.distributed import shard_range
from recognition.head.placement.initial import BLOCK, initial_centres

CLASSES = 2 * BLOCK + 77


def test_do_not_depend_on_the_number_of_ranks() -> None:
    alone = initial_centres(0, CLASSES, 8, seed=3)
    for ranks in (2, 4, 5):
        ranges = [shard_range(CLASSES, ranks, rank) for rank in range(ranks)]
        together = torch.cat([initial_centres(*classes, 8, seed=3) for classes in ranges])
        assert torch.equal(alone, together)


def test_do_not_depend_on_the_number_of_classes_nor_the_global_generator() -> None:
    torch.manual_seed(0)
    few = initial_centres(0, 10, 8, seed=3)
    torch.manual_seed(1)
    assert torch.equal(few, initial_centres(0, CLASSES, 8, seed=3)[:10])


def test_are_normal_and_differ_by_class_and_seed() -> None:
    centres = initial_centres(0, CLASSES, 64, seed=3)

    assert abs(centres.std() - 0.01) < 1e-4  # 136,000 draws: the deviation is known to 2e-5
    assert abs(centres.mean()) < 1e-4
    assert len({tuple(row) for row in centres.tolist()}) == CLASSES
    assert not torch.equal(centres[:10], initial_centres(0, 10, 64, seed=4))


def test_an_empty_shard_is_empty() -> None:
    assert initial_centres(10, 10, 8, seed=3).shape == (0, 8)
