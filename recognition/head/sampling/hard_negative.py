"""The hardest negatives: every centre of the shard is scored against the batch, in low precision.

Shapes: N samples of the global batch, L classes of this rank's shard, R classes of a block, K
centres per class, C = R·K centres of a block, d embedding size.
"""

import math

import torch
from torch import Tensor

from recognition.head.choices import check
from recognition.head.kernels.reference import inverse_norm
from recognition.head.online_softmax.settings import BLOCK_BYTES, budget
from recognition.head.sampling.by_score import ranking, take_best
from recognition.head.sampling.rule import ActiveSet, Sampler, SampleRequest, TableReader


class HardNegative(Sampler):
    """Take the batch's classes and those that come nearest to any sample, up to the quota.

    A class is scored by its largest cosine with the batch's embeddings, over its centres and over
    the samples; the best-scored are taken (`take_best`). Its own samples need not be left out: a
    class that has any is in the batch, and is taken in any case.

    Costs one matrix product in low precision over the whole shard, of the four that a softmax over
    it takes, and one pass over the table; memory beyond the table is a block and, to pick the
    best, some 30 bytes per class. There is no state. The set depends on embeddings and centres: a
    resume replays it, but, unlike those of the random rules, it is not known before the backbone
    has run.

    Args:
        hard_share: fraction of the quota that hardness decides, in (0, 1]; the rest is drawn at
            random, so that every centre takes part now and then, however far from samples it is.
        dtype: of the product's factors. In bfloat16 cosines are off by some 2e-4 (at d = 512),
            which swaps only classes that are about equally hard.
        block_bytes: memory budget of a block's temporaries; default by device, `BLOCK_BYTES`.
    """

    uses_embeddings = True

    def __init__(
        self, hard_share: float, dtype: torch.dtype = torch.bfloat16, block_bytes: int | None = None
    ) -> None:
        check(0.0 < hard_share <= 1.0, "hard_share", hard_share, "0 < hard_share <= 1")
        self.hard_share = hard_share
        self.dtype = dtype
        self.block_bytes = block_bytes

    def __call__(self, request: SampleRequest) -> ActiveSet:
        """Return the classes of this rank that take part in a step."""
        unit_Nd, table = request.embeddings_and_centres()
        block_bytes = budget(self.block_bytes, BLOCK_BYTES, unit_Nd.device)

        def score() -> Tensor:
            score_L = largest_cosines(unit_Nd, table, self.dtype, block_bytes)
            return score_L if self.hard_share == 1.0 else self._hardest(score_L, request)

        return take_best(request, score)

    def _hardest(self, score_L: Tensor, request: SampleRequest) -> Tensor:
        """Return the scores of the hardest negatives, −inf for the rest: drawn by their hashes."""
        others_L = score_L.masked_fill(request.is_positive(), -torch.inf)
        hard = math.ceil(self.hard_share * request.shard_quota)
        kept = ranking(others_L, request).topk(hard).indices
        return torch.full_like(score_L, -torch.inf).index_copy_(0, kept, others_L[kept])


@torch.no_grad()
def largest_cosines(
    unit_Nd: Tensor, table: TableReader, dtype: torch.dtype, block_bytes: int
) -> Tensor:
    """Equals `(normalize(table) @ unit_Nd.T).amax(dim=1)`, the largest of a class's centres.

    float32 [L], with the product in `dtype`; −inf for a batch without samples.
    """
    samples, size = unit_Nd.shape
    factor_dN = unit_Nd.to(dtype).T
    score_L = unit_Nd.new_full((table.rows,), -torch.inf)
    if samples == 0:
        return score_L
    # The centres as they are and in `dtype`, the product in `dtype`; its reduction may be in
    # float32. Several centres per class take as many times more.
    block_rows = max(1, block_bytes // ((4 + dtype.itemsize) * (samples + size)))
    for start, stop, centres_RKd in table.blocks(block_rows):
        centre_Cd = centres_RKd.flatten(0, 1)
        # The norm is positive, so it can wait until N products have become one.
        largest_C = (centre_Cd.to(dtype) @ factor_dN).amax(1).float().mul_(inverse_norm(centre_Cd))
        score_L[start:stop] = largest_C.view(stop - start, -1).amax(1)
    return score_L
