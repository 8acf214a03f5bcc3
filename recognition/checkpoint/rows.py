"""Tensors whose rows are split over the ranks, saved and loaded a chunk of rows at a time.

A table can fill the memory, so there is never a second copy of one: torch.distributed.checkpoint
plans with the chunks of a `ShardedRows`, and `sharded` copies one chunk per thread.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.distributed.checkpoint import metadata as dcp
from torch.distributed.checkpoint.planner import TensorWriteData, WriteItem, WriteItemType

# Little for a machine that holds a table, and much beside the cost of an entry in the table of
# contents: a table of 100 GiB takes 1,600.
CHUNK_BYTES = 1 << 26


class Rows(Protocol):
    """The rows of a tensor on this rank, read and written a part at a time, by several threads."""

    @property
    def shape(self) -> torch.Size:
        """Of all of them: [L, ...]."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """Of what is read and written."""
        ...

    def read(self, start: int, stop: int) -> Tensor:
        """Return rows `[start, stop)`, on any device; may be a view."""
        ...

    def write(self, start: int, rows: Tensor) -> None:
        """Replace the rows from `start` on by `rows`, on the CPU."""
        ...


@dataclass(frozen=True)
class ShardedRows:
    """This rank's rows of a tensor that the ranks hold together.

    Ranks may hold the same rows: each chunk is then saved by one of them.
    """

    local: Rows
    total: int  # number of different rows on all ranks
    start: int  # position of this rank's row 0 among them
    chunk_bytes: int = CHUNK_BYTES  # bound of what one thread copies at a time

    def chunks(self, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, int]]:
        """Yield the bounds of chunks of this rank's rows `[start, stop)`; by default of all."""
        stop = self.local.shape[0] if stop is None else stop
        row_bytes = math.prod(self.local.shape[1:]) * self.local.dtype.itemsize
        step = max(1, self.chunk_bytes // max(row_bytes, 1))
        for first in range(start, stop, step):
            yield first, min(first + step, stop)

    def read(self, item: WriteItem) -> Tensor:
        """Return the chunk that is to be saved as `item`."""
        assert item.index.offset is not None
        assert item.tensor_data is not None
        first = item.index.offset[0] - self.start
        return self.local.read(first, first + item.tensor_data.chunk.sizes[0])

    def size(self) -> torch.Size:
        """Return the shape over all ranks, as torch.distributed.checkpoint asks for it."""
        return torch.Size((self.total, *self.local.shape[1:]))

    def __create_write_items__(self, name: str, _: object) -> list[WriteItem]:
        """Plan what this rank has to save, for torch.distributed.checkpoint."""
        properties = dcp.TensorProperties(dtype=self.local.dtype)
        chunks = [self._chunk(*bounds) for bounds in self.chunks()]
        return [
            WriteItem(
                index=dcp.MetadataIndex(name, chunk.offsets),
                type=WriteItemType.SHARD,
                tensor_data=TensorWriteData(chunk, properties, self.size()),
            )
            for chunk in chunks
        ]

    def __create_chunk_list__(self) -> list[dcp.ChunkStorageMetadata]:
        """Say which rows this rank loads, for torch.distributed.checkpoint."""
        rows = self.local.shape[0]
        return [self._chunk(0, rows)] if rows else []

    def _chunk(self, first: int, last: int) -> dcp.ChunkStorageMetadata:
        """Return this rank's rows `[first, last)` as a part of the rows of all ranks."""
        rest = self.local.shape[1:]
        return dcp.ChunkStorageMetadata(
            offsets=torch.Size((self.start + first, *(0 for _ in rest))),
            sizes=torch.Size((last - first, *rest)),
        )
