"""A table's rows as a stream of blocks: what both passes, and updates, run over.

Shapes: K centres per class, d embedding size.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TypeVar

from recognition.head.kernels.block import Block, LogitTransform
from recognition.head.kernels.reference import BlockOps
from recognition.head.losses.base import Curriculum
from recognition.head.online_softmax.settings import StreamSettings
from recognition.head.online_softmax.threads import Threads
from recognition.head.placement.table import Table
from recognition.head.rows import Bounds, RowSet

Result = TypeVar("Result")


@dataclass(frozen=True)
class BlockStream:
    """This rank's centres, and how they are worked through."""

    table: Table
    embedding_size: int
    settings: StreamSettings
    threads: Threads
    # Whether the block operations do all the work on a block, the optimizer's too.
    lean: bool = False

    @property
    def centres(self) -> int:
        """K, centres per class."""
        return self.table.weight.shape[1] // self.embedding_size

    def transform(self, curriculum: Curriculum | None) -> LogitTransform:
        """Return how cosines become logits."""
        plain = self.settings.plain_transform
        return replace(plain, curriculum=curriculum, centres=self.centres)

    def block_rows(self, samples: int) -> int:
        """Return how many classes' temporaries for so many samples fit the budget: at least 1."""
        settings = self.settings
        row_bytes = self.threads.ops.row_bytes(
            samples, self.embedding_size, settings.matmul_dtype, lean=self.lean
        )
        return max(1, settings.block_bytes // (self.centres * row_bytes))

    def map(
        self,
        function: Callable[[BlockOps, Iterator[Block]], Result],
        rows: RowSet,
        samples: int,
        *,
        with_state: bool = False,
    ) -> Iterator[Result]:
        """Yield `function(ops, blocks)` for each part of `rows`, in their order.

        See `Threads.map`. Several threads call the function, which must take all blocks of its
        part. Blocks are of such a size that their temporaries for `samples` samples fit the
        budget, and have the optimizer state only if asked to.
        """

        def run(ops: BlockOps, part: Bounds) -> Result:
            blocks = self.table.iter_blocks(rows, part, ops.space, with_state=with_state)
            return function(ops, blocks)

        return self.threads.map(run, rows.blocks(self.block_rows(samples)))
