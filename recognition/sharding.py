"""Shard arithmetic: which part of a range of items a rank owns.

Two cuts are used and they are not the same:

* `part_range` spreads items as evenly as possible (samples of a batch over ranks).
* `shard_range` gives equal-size blocks with a short or empty tail (rows of a sharded table). It
  is the cut of `torch.distributed.tensor.Shard`, so that a table saved by global class id loads
  on any number of ranks.
"""


def part_range(count: int, parts: int, part: int) -> tuple[int, int]:
    """Return `[start, stop)` of `part` when `count` items are spread evenly over `parts`.

    The first `count % parts` parts hold one item more. Raises `ValueError` if `part` is not in
    `[0, parts)` or `count` is negative.

    >>> [part_range(10, 4, part) for part in range(4)]
    [(0, 3), (3, 6), (6, 8), (8, 10)]
    """
    _check(count, parts, part)
    base, extra = divmod(count, parts)
    start = part * base + min(part, extra)
    return start, start + base + (part < extra)


def shard_range(count: int, parts: int, part: int) -> tuple[int, int]:
    """Return `[start, stop)` of `part` when `count` rows are cut into blocks of one size.

    Every block has `ceil(count / parts)` rows but the last ones, which may be short or empty.
    Raises `ValueError` if `part` is not in `[0, parts)` or `count` is negative.

    >>> [shard_range(9, 4, part) for part in range(4)]
    [(0, 3), (3, 6), (6, 9), (9, 9)]
    """
    _check(count, parts, part)
    block = -(-count // parts)
    return min(part * block, count), min((part + 1) * block, count)


def _check(count: int, parts: int, part: int) -> None:
    if count < 0:
        raise ValueError(f"cannot cut {count} items: the count must be 0 or more")
    if not 0 <= part < parts:
        raise ValueError(f"part {part} of {parts} does not exist: expected 0 <= part < {parts}")
