"""The first pass over rows of which some will be drawn: each row's largest share in the gradient.

One product per block: the sums of exponentials, so that the loss is exact, and for each row the
sample that it matters most to. The passes that make gradients then take the drawn rows alone.

Shapes: S samples whose negatives count, L rows of the table, A drawn rows, R classes of a block.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from recognition.head.kernels.block import Block
from recognition.head.kernels.reference import BlockOps
from recognition.head.online_softmax.forward import BlockExps, NegativeStatistics, Samples
from recognition.head.online_softmax.stream import BlockStream
from recognition.head.rows import RowSet

_CHUNK = 1 << 16  # rows at a time, so that temporaries are small


@dataclass(frozen=True)
class DrawnRows:
    """Rows drawn at random, each with a probability of its own."""

    rows: RowSet  # A of them
    gain: Tensor | None  # float32 [A], one over each one's probability; None if all are 1


@dataclass(frozen=True)
class Draw:
    """How rows are drawn."""

    # Some rows, chosen without looking at their shares, whose exponentials stand for all: the
    # estimate only decides between the samples that compete for one row.
    pilot: RowSet
    # Takes the rows' shares to base 2, float32 [L], and returns some of the rows.
    choose: Callable[[Tensor], DrawnRows]


@dataclass(frozen=True)
class RowScores:
    """Of each row its largest exponential, in proportion to the sample's sum, and whose it is.

    They hold until rows are scored again.
    """

    logit: Tensor  # float32 [L], to base 2; −inf for a row that is no sample's negative
    sample: Tensor  # int16 or int32 [L]

    def log2_shares(self, log2_total_S: Tensor, weight_S: Tensor) -> Tensor:
        """Return each row's share in the gradient of its sample, to base 2: float32 [L].

        That is its probability among the sample's negatives, with the exact sum of exponentials,
        times the sample's weight: the derivative of its loss by their log-sum-exp. Written over the
        logits; call it once.
        """
        if len(weight_S) == 0:
            return self.logit
        of_sample_S = weight_S.abs().log2() - log2_total_S
        for first in range(0, len(self.logit), _CHUNK):
            of_chunk = slice(first, first + _CHUNK)
            self.logit[of_chunk] += of_sample_S.index_select(0, self.sample[of_chunk].int())
        return self.logit


def score_rows(
    stream: BlockStream,
    samples: Samples,
    rows: RowSet,
    log2_estimate_S: Tensor,
    *,
    block_samples: int,
) -> tuple[NegativeStatistics, RowScores]:
    """Return each sample's softmax over all `rows`, without the sum of centres, and the scores.

    `rows` are the whole table, `log2_estimate_S`, float32 [S], estimates the sums of exponentials,
    −inf where there is none; other arguments are those of `negative_statistics`.
    """
    log2_estimate_S = log2_estimate_S.nan_to_num(neginf=0.0)
    transform, unit_Sd = stream.transform(samples.curriculum), samples.unit
    exps = BlockExps(
        unit_Sd.to(stream.settings.matmul_dtype), rows.positions(samples.target_row), transform
    )
    few = len(unit_Sd) <= torch.iinfo(torch.int16).max
    take, device = stream.threads.ops.space.take, unit_Sd.device
    scores = RowScores(
        take("logits of rows", (rows.count,), torch.float32, device).fill_(-torch.inf),
        take("samples of rows", (rows.count,), torch.int16 if few else torch.int32, device),
    )

    def part(ops: BlockOps, blocks: Iterator[Block]) -> NegativeStatistics:
        found = NegativeStatistics.empty(unit_Sd, transform.initial_max, with_grad=False)
        for block in blocks:
            product_CS = exps.space(ops, block)
            _, inverse_C = exps.products(ops, block, product_CS)
            of_block = slice(block.start, block.stop)
            ops.score_block(
                product_CS, inverse_C, exps.target_position, block.start, transform,
                found.running_max, found.sum_exp, log2_estimate_S,
                scores.logit[of_block], scores.sample[of_block],
            )  # fmt: skip
        return found

    total = NegativeStatistics.empty(unit_Sd, transform.initial_max, with_grad=False)
    if len(unit_Sd) > 0:
        for found in stream.map(part, rows, block_samples):
            total.merge(found)
    return total, scores
