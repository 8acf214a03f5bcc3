from collections.abc import Callable

import pytest
import torch

from recognition.sharding import part_range, shard_range

Cut = Callable[[int, int, int], tuple[int, int]]
SIZES = [0, 1, 2, 9, 10, 101, 1000]


@pytest.mark.parametrize("cut", [part_range, shard_range])
@pytest.mark.parametrize("count", SIZES)
@pytest.mark.parametrize("parts", [1, 2, 3, 4, 7])
def test_parts_cover_the_range_in_order_without_overlap(cut: Cut, count: int, parts: int) -> None:
    ranges = [cut(count, parts, part) for part in range(parts)]
    assert [index for start, stop in ranges for index in range(start, stop)] == list(range(count))


@pytest.mark.parametrize("count", SIZES)
@pytest.mark.parametrize("parts", [1, 2, 3, 4, 7])
def test_part_range_is_even(count: int, parts: int) -> None:
    sizes = [stop - start for start, stop in (part_range(count, parts, p) for p in range(parts))]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("count", SIZES[1:])
@pytest.mark.parametrize("parts", [1, 2, 3, 4, 7])
def test_shard_range_is_the_cut_of_dtensor(count: int, parts: int) -> None:
    # DTensor's Shard(0) cuts as torch.chunk does, with empty shards for the ranks left over.
    chunks = torch.arange(count).chunk(parts)
    expected = [len(chunk) for chunk in chunks] + [0] * (parts - len(chunks))
    ranges = [shard_range(count, parts, part) for part in range(parts)]
    assert [stop - start for start, stop in ranges] == expected


def test_a_part_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="part 4 of 4 does not exist"):
        part_range(10, 4, 4)
    with pytest.raises(ValueError, match="-1 items"):
        shard_range(-1, 4, 0)
