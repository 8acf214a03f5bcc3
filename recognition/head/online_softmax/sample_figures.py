"""Numbers of each sample for the log: how near it is to its centre, and to the nearest other one.

Shapes: M samples that this rank works on, N of the global batch, R classes of a block, K centres
per class, C = R·K centres of a block, d embedding size.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from recognition.head.kernels.block import Block
from recognition.head.kernels.reference import BlockOps
from recognition.head.online_softmax.backward import CentreLoss
from recognition.head.online_softmax.forward import BlockExps
from recognition.head.online_softmax.stream import BlockStream
from recognition.head.placement.collectives import Collectives


def sample_figures(
    stream: BlockStream, losses: Sequence[CentreLoss], collectives: Collectives
) -> dict[str, Tensor]:
    """Return, by name, a number of each sample of these forward passes: float32 [N].

    - `cosine_positive`: with its target centre, of several the nearest, before the margin;
    - `cosine_hardest_negative`: the largest with a centre of another class, in the dtype of the
      products, among the rows that have a gradient; −inf where there is none;
    - `embedding_norm`: before normalisation.

    Costs one product of each loss's samples with its rows, and collectives of a number per sample.
    """
    parts: dict[str, list[Tensor]] = {}
    for loss in losses:
        of_ranks_W1M = collectives.gather_statistics(hardest_negative(stream, loss).unsqueeze(0))
        values = {
            "cosine_positive": loss.cosine,
            "cosine_hardest_negative": of_ranks_W1M.amax(0).squeeze(0),
            "embedding_norm": loss.norm,
        }
        for name, value_M in values.items():
            value_N = collectives.gather_all(value_M.contiguous(), loss.sizes)
            parts.setdefault(name, []).append(value_N)
    return {name: torch.cat(values) for name, values in parts.items()}


def hardest_negative(stream: BlockStream, loss: CentreLoss) -> Tensor:
    """Return each sample's largest cosine with a centre of another class: float32 [M].

    Among this rank's rows of the loss; −inf where there is none. The filter of negatives and a
    curriculum change nothing.
    """
    unit_Md = loss.targets.unit
    exps = BlockExps(
        unit_Md.to(stream.settings.matmul_dtype),
        loss.rows.positions(loss.targets.row),
        stream.transform(None),
    )
    sample_M = torch.arange(len(unit_Md), device=unit_Md.device)

    def part(ops: BlockOps, blocks: Iterator[Block]) -> Tensor:
        found_M = unit_Md.new_full((len(unit_Md),), -torch.inf)
        for block in blocks:
            cosine_CM = exps.space(ops, block)
            _, inverse_C = exps.products(ops, block, cosine_CM)
            cosine_CM.mul_(inverse_C.unsqueeze(1))
            cosine_RKM = cosine_CM.view(len(block), -1, len(unit_Md))
            row_M = exps.target_position - block.start
            held_M = (row_M >= 0) & (row_M < len(block))
            row_M = row_M.clamp(0, len(block) - 1)
            target_MK = cosine_RKM[row_M, :, sample_M].masked_fill(held_M.unsqueeze(1), -torch.inf)
            cosine_RKM[row_M, :, sample_M] = target_MK
            torch.maximum(found_M, cosine_CM.amax(0).float(), out=found_M)
        return found_M

    total_M = unit_Md.new_full((len(unit_Md),), -torch.inf)
    if len(unit_Md) == 0 or loss.rows.count == 0:
        return total_M
    for found_M in stream.map(part, loss.rows, loss.block_samples):
        torch.maximum(total_M, found_M, out=total_M)
    return total_M
