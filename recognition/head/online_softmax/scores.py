"""The first pass over rows of which some will be drawn: each row's largest share in the gradient.

One product per block: the sums of exponentials, so that the loss is exact, and for each row the
samples that it may matter most to. The passes that make gradients then take the drawn rows alone.

Shapes: S samples whose negatives count, L rows of the table, A drawn rows, R classes of a block.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from recognition.head.kernels.block import Block
from recognition.head.kernels.reference import BlockOps, key_dtype, read_keys
from recognition.head.online_softmax.forward import BlockExps, NegativeStatistics, Samples
from recognition.head.online_softmax.stream import BlockStream
from recognition.head.rows import RowSet

_CHUNK = 1 << 16  # rows at a time, so that temporaries are small


@dataclass(frozen=True)
class DrawnRows:
    """Rows drawn at random, each with a probability of its own."""

    rows: RowSet  # A of them
    gain: Tensor | None  # float32 [A], one over each one's probability; None if all are 1


Draw = Callable[[Tensor], DrawnRows]
"""Takes the rows' shares to base 2, float32 [L], and returns some of the rows."""


@dataclass(frozen=True)
class RowScores:
    """Of each row its two largest logits and whose they are: of which sample it is a negative.

    They hold until rows are scored again. To which of the samples a row matters most depends on
    their sums of exponentials, which are not known while rows are scored. It is one of the two
    nearest but for rows that hardly matter. With the nearest alone the variance of the gradient can
    double (docs/methods.md).
    """

    keys: Tensor  # int32 or int64 [2, L], see `reference.score_keys`
    log2_scale: float

    def log2_shares(self, log2_total_S: Tensor, weight_S: Tensor) -> Tensor:
        """Return each row's share in the gradient of one of its samples, to base 2: float32 [L].

        That is its probability among the sample's negatives, with the exact sum of exponentials,
        times the sample's weight: the derivative of its loss by their log-sum-exp. Of two samples
        it is the larger share; −inf for a row that is nobody's negative. Overwrites the keys.
        """
        # In the memory of the first keys, of which every chunk has been read.
        share_L = self.keys[0].view(torch.float32)[: self.keys.shape[1]]
        if len(weight_S) == 0:
            return share_L.fill_(-torch.inf)
        of_sample_S = weight_S.abs().log2() - log2_total_S
        for first in range(0, len(share_L), _CHUNK):
            of_chunk = slice(first, first + _CHUNK)
            cosine_2R, sample_2R = read_keys(self.keys[:, of_chunk])
            of_sample_2R = of_sample_S.index_select(0, sample_2R.flatten()).view_as(cosine_2R)
            share_L[of_chunk] = cosine_2R.mul_(self.log2_scale).add_(of_sample_2R).amax(0)
        return share_L


def score_rows(
    stream: BlockStream, samples: Samples, rows: RowSet, *, block_samples: int
) -> tuple[NegativeStatistics, RowScores]:
    """Return each sample's softmax over all `rows`, without the sum of centres, and the scores.

    `rows` are the whole table; other arguments are those of `negative_statistics`.
    """
    transform, unit_Sd = stream.transform(samples.curriculum), samples.unit
    exps = BlockExps(
        unit_Sd.to(stream.settings.matmul_dtype), rows.positions(samples.target_row), transform
    )
    shape, dtype = (2, rows.count), key_dtype(len(unit_Sd))
    key_2L = stream.threads.ops.space.take("scores", shape, dtype, unit_Sd.device)

    def part(ops: BlockOps, blocks: Iterator[Block]) -> NegativeStatistics:
        found = NegativeStatistics.empty(unit_Sd, transform.initial_max, with_grad=False)
        for block in blocks:
            product_CS = exps.space(ops, block)
            _, inverse_C = exps.products(ops, block, product_CS)
            ops.score_block(
                product_CS, inverse_C, exps.target_position, block.start, transform,
                found.running_max, found.sum_exp, key_2L[:, block.start : block.stop],
            )  # fmt: skip
        return found

    total = NegativeStatistics.empty(unit_Sd, transform.initial_max, with_grad=False)
    if len(unit_Sd) > 0:
        for found in stream.map(part, rows, block_samples):
            total.merge(found)
    return total, RowScores(key_2L, transform.log2_scale)
