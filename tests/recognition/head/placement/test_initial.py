import threading

import pytest
import torch
from torch import Tensor

from recognition.distributed import shard_range
from recognition.head.hashing import text_hash
from recognition.head.placement import initial
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


def drawn_one_by_one(start: int, stop: int, size: int, seed: int) -> Tensor:
    blocks = []
    for number in range(stop // BLOCK + 1):
        hashed = text_hash(f"class centres, seed {seed}, block {number}")
        generator = torch.Generator().manual_seed(hashed >> 1)
        blocks.append(torch.randn(BLOCK, size, generator=generator).mul_(0.01))
    return torch.cat(blocks)[start:stop]


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_threads_draw_the_bits_of_one_generator_after_the_other(
    threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    for start, stop in ((0, CLASSES), (BLOCK - 3, 4 * BLOCK), (BLOCK, 3 * BLOCK), (5, 9)):
        for size in (8, 3, 512):  # 3: torch draws what is no multiple of 16 in another way
            centres = initial_centres(start, stop, size, seed=3)
            expected = drawn_one_by_one(start, stop, size, seed=3)
            assert torch.equal(centres.view(torch.int32), expected.view(torch.int32))


def test_blocks_are_drawn_at_the_same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    together = threading.Barrier(3)

    def met(text: str) -> int:
        together.wait(timeout=30)  # until three threads are here
        return text_hash(text)

    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    monkeypatch.setattr(initial, "text_hash", met)
    assert torch.equal(
        initial_centres(0, 6 * BLOCK, 8, seed=3), drawn_one_by_one(0, 6 * BLOCK, 8, seed=3)
    )
