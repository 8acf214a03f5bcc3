"""Class centres that start as the mean embeddings of their classes, onto any number of ranks.

Shapes: b samples of this rank, N of the batch of all ranks, R classes, L classes of this rank, K
centres per class, d embedding size.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor
from torch.nn.functional import normalize

from recognition.head.batch import normalise
from recognition.head.optim.rounding import RowNoise
from recognition.head.partial_fc import PartialFC
from recognition.head.placement.build import create_collectives
from recognition.head.separate_heads import SeparateHeads, head_seed, heads_by_name

SPREAD = 0.25  # length of the random part of a unit centre where a class has several: 14 degrees


@torch.no_grad()
def start_from_class_means(
    head: PartialFC | SeparateHeads,
    embed: Callable[[Tensor], Tensor],
    batches: Iterable[tuple[Tensor, Tensor]],
    seed: int,
) -> int:
    """Give a head, before its first step, centres in the direction of its classes' embeddings.

    A centre becomes the mean of the unit embeddings of its class, with the norm that its random
    start has, so that a learning rate means the same. Several centres of one class differ by a
    random part of length `SPREAD`. A class without images keeps its random start. The mean is
    summed in float64 in the order of the images, so it is the same on any number of ranks, up to
    what the network's arithmetic makes of another batch size; on all ranks it is the same to the
    bit.

    Args:
        head: one head, or several, whose class ids follow each other.
        embed: images `[b, 3, S, S]` to embeddings `[b, d]`, not normalised; in evaluation mode.
        batches: of this rank, as many as of every other: images, and labels, int64 [b], on the
            head's device. Ascending through the batches and, in one, through the ranks, so that
            only one batch must be kept. Samples with a label of -1 are left out.
        seed: of the run.

    Returns the number of classes that have got a mean. Collective: two all-gathers per batch.
    Raises `ValueError` for embeddings that are not finite.
    """
    collectives = create_collectives("sharded", None)
    targets = _targets(head, seed)
    count = 0
    kept_Nd, kept_N = torch.empty(0), torch.empty(0, dtype=torch.int64)
    for images, label_b in batches:
        unit_bd, norm_b = normalise(embed(images))
        sizes = collectives.batch_sizes(len(label_b), label_b.device, None)
        batch = collectives.gather_batch(unit_bd, norm_b, label_b, sizes)
        # On the CPU sums have one order, and no two ranks' copies of a class differ.
        unit_Nd, label_N = batch.unit.cpu().double(), batch.label.cpu()
        if not unit_Nd.isfinite().all():
            raise ValueError(
                "head.init: class_means: the network makes embeddings that are not finite; are "
                "these the weights that init_from should name?"
            )
        known_N = label_N >= 0
        unit_Nd, label_N = unit_Nd[known_N], label_N[known_N]
        if len(kept_N):
            unit_Nd, label_N = torch.cat([kept_Nd, unit_Nd]), torch.cat([kept_N, label_N])
        if not len(label_N):
            continue
        # The last class may go on in the next batch.
        is_last_N = label_N == label_N[-1]
        kept_Nd, kept_N = unit_Nd[is_last_N], label_N[is_last_N]
        count += _write(targets, unit_Nd[~is_last_N], label_N[~is_last_N])
    return count + _write(targets, kept_Nd, kept_N)


@dataclass(frozen=True)
class _Target:
    """A head that gets centres."""

    head: PartialFC
    first_class: int  # class id of its class 0
    seed: int

    def write(self, label_R: Tensor, mean_Rd: Tensor) -> None:
        """Replace the centres of those of the ascending classes that this rank has."""
        table, (start, stop) = self.head.table, self.head.shard
        row_R = label_R - self.first_class - start
        is_here_R = (row_R >= 0) & (row_R < stop - start)
        row_R, mean_Rd = row_R[is_here_R], mean_Rd[is_here_R]
        gaps = torch.nonzero(row_R.diff() > 1).flatten() + 1
        rows = zip(row_R.tensor_split(gaps), mean_Rd.tensor_split(gaps), strict=True)
        for row_r, mean_rd in rows if len(row_R) else ():
            first, last = int(row_r[0]), int(row_r[-1]) + 1
            old_rD = table.centres(first, last).cpu().double()
            old_rKd = old_rD.view(len(row_r), -1, mean_rd.shape[1])
            centre_rKd = mean_rd.unsqueeze(1).expand_as(old_rKd)
            if old_rKd.shape[1] > 1:
                centre_rKd = centre_rKd + SPREAD * normalize(old_rKd, dim=2)
            centre_rKd = normalize(centre_rKd, dim=2) * old_rKd.norm(dim=2, keepdim=True)
            new_rD = centre_rKd.flatten(1).to(table.weight.device, torch.float32)
            # As the initial centres that these replace; see `create_table`.
            noise = RowNoise(self.seed, -1, len(new_rD), start + first)
            table.write_centres(first, new_rD.contiguous(), noise)


def _targets(head: PartialFC | SeparateHeads, seed: int) -> list[_Target]:
    heads = list(heads_by_name(head).values())
    starts = accumulate((each.num_classes for each in heads), initial=0)
    return [
        _Target(each, start, head_seed(seed, number))
        for number, (each, start) in enumerate(zip(heads, starts, strict=False))
    ]


def _write(targets: Sequence[_Target], unit_Nd: Tensor, label_N: Tensor) -> int:
    """Write the means of all images of some classes; return the number of these classes."""
    is_new_N = label_N.diff(prepend=label_N[:1] - 1) != 0
    assert (label_N.diff() >= 0).all(), "labels ascend"
    label_R, class_N = label_N[is_new_N], is_new_N.cumsum(0) - 1
    sum_Rd = unit_Nd.new_zeros(len(label_R), unit_Nd.shape[1]).index_add_(0, class_N, unit_Nd)
    for target in targets:
        target.write(label_R, normalize(sum_Rd))
    return len(label_R)
