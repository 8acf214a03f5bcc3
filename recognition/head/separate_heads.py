"""`SeparateHeads`: a head of its own for each dataset, over one backbone.

Shapes: D datasets, b samples of this rank, b_k of them of dataset k, N of the global batch, N_k of
them of dataset k, d embedding size.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
import torch.distributed as dist
from torch import Tensor, nn

from recognition.head.batch import check_batch
from recognition.head.choices import check
from recognition.head.output import HeadOutput
from recognition.head.partial_fc import PartialFC
from recognition.head.placement.build import create_collectives

Figure = Tensor | float

# Figures of the whole that are sums over the heads; all others are means over the samples.
_SUMS = frozenset({"positive_classes", "active_classes", "selection_seconds"})
_NORMS = frozenset({"gradient_norm_centres"})  # and of these parts of a norm


@dataclass(frozen=True)
class _Split:
    """Which samples of a batch are of which dataset."""

    labels: Tensor  # [b], as they were given
    version: int | None  # of that tensor's memory, None where torch counts none
    order: Tensor  # int64 [b], this rank's samples by dataset, those of one in the batch's order
    label_parts: Sequence[Tensor]  # by dataset: int64 [b_k], class ids of its own head
    sizes: Sequence[list[int]]  # by dataset: its samples on each rank

    def is_of(self, labels: Tensor) -> bool:
        """Return whether it is that of this very tensor, unchanged since.

        Values are not compared: ranks must agree, and one without samples could not tell.
        """
        unchanged = self.version is not None and self.version == labels._version
        return labels is self.labels and unchanged


class SeparateHeads(nn.Module):
    """A head for each of several datasets: a sample meets the classes of its own dataset alone.

    So the two labels of a person who is in two datasets do not repel each other. It is used like a
    `PartialFC`, with class ids that count through the datasets one after another. With
    `L_k` the loss of head k for its N_k samples of the N of the global batch, the loss is

        sum over k of weight_k * N_k / N * L_k

    which is the mean over the global batch of each sample's loss times its dataset's weight, and
    for one dataset of weight 1 that of its head, to the bit. A head without a sample in the global
    batch takes no part, on any rank; if it has none in a whole step, its step counts all the same,
    and its centres are updated as those that were not sampled.

    **Gradients** are those of this loss, as `PartialFC` describes them.

    **Collectives.** One all-gather of labels, for which the host waits: it must know how many
    samples each head has on each rank. `prefetch` does both ahead of the backbone. Then those of
    each head that has samples, in the order of the datasets.

    Args:
        heads: of each dataset by its name, in the order of class ids. All of them on one device,
            for one embedding size and one group of ranks; only the number of classes differs.
        weights: of each dataset, above 0; default 1 for all.
        group: the ranks, as the heads were given it.

    Raises `ValueError` for no head, another number of weights, or one that is not above 0.
    """

    def __init__(
        self,
        heads: Mapping[str, PartialFC],
        weights: Sequence[float] | None = None,
        *,
        group: dist.ProcessGroup | None = None,
    ) -> None:
        super().__init__()
        check(len(heads) > 0, "heads", "none", "at least one")
        self.by_dataset = dict(heads)
        self.weights = [1.0] * len(heads) if weights is None else list(weights)
        expected = f"a finite number above 0 for each of {', '.join(heads)}"
        fits = len(self.weights) == len(heads) and all(0.0 < w < math.inf for w in self.weights)
        check(fits, "weights", self.weights, expected)
        self.heads = nn.ModuleList(heads.values())
        first = next(iter(heads.values()))
        self.device, self.embedding_size = first.device, first.embedding_size
        self._starts = list(accumulate((head.num_classes for head in heads.values()), initial=0))
        self.num_classes = self._starts.pop()
        self._bounds = torch.tensor(self._starts[1:], dtype=torch.int64, device=self.device)
        # Of labels and of numbers of samples alone, which every placement sends alike.
        self._collectives = create_collectives("sharded", group)
        self._ahead: _Split | None = None
        self._trained: set[str] = set()  # heads with a forward pass for the next step

    @property
    def step_count(self) -> int:
        """The step that all heads are at."""
        return next(iter(self.by_dataset.values())).step_count

    @step_count.setter
    def step_count(self, step: int) -> None:
        for head in self.by_dataset.values():
            head.step_count = step

    def forward(
        self, embeddings: Tensor, labels: Tensor, batch_sizes: Sequence[int] | None = None
    ) -> HeadOutput:
        """Return the loss of the global batch; arguments and errors are those of `PartialFC`.

        `active_classes` is the sum over the heads that took part. Figures have the names of a
        single head for the whole, and `name/dataset` for each head's own.
        """
        check_batch(embeddings, labels, self.embedding_size, self.device, self.num_classes)
        split, self._ahead = self._ahead, None
        if split is None or not split.is_of(labels):
            split = self._split(labels, batch_sizes)
        outputs = self._outputs(embeddings, split)
        counts = dict(zip(self.by_dataset, map(sum, split.sizes), strict=True))
        fractions = {name: counts[name] / sum(counts.values()) for name in outputs}
        weights = dict(zip(self.by_dataset, self.weights, strict=True))
        terms = [output.loss * (weights[n] * fractions[n]) for n, output in outputs.items()]
        own = {
            name: {"loss": output.loss.detach(), **output.figures}
            for name, output in outputs.items()
        }
        figures = _join(own, fractions)
        del figures["loss"]  # it lacks the weights
        return HeadOutput(
            loss=torch.stack(terms).sum(),
            active_classes=sum(output.active_classes for output in outputs.values()),
            figures=figures,
            fractions={f"{figure}/{name}": fractions[name] for name in own for figure in own[name]},
        )

    @torch.no_grad()
    def prefetch(self, labels: Tensor, batch_sizes: Sequence[int] | None = None) -> None:
        """Find out which samples are of which head, and have each begin to choose its classes.

        See `PartialFC.prefetch`. The next forward pass must be given the same tensor, on all ranks
        or on none; if it is not, what was prepared is dropped.
        """
        self._ahead = self._split(labels, batch_sizes)
        for head, label_part, sizes in zip(
            self.by_dataset.values(), self._ahead.label_parts, self._ahead.sizes, strict=True
        ):
            if any(sizes):
                head.prefetch(label_part, sizes)

    @torch.no_grad()
    def step(
        self, lr: float, *, grad_scale: float | Tensor = 1.0, skip: bool | Tensor = False
    ) -> None:
        """Update the centres of all heads; see `PartialFC.step`, also for errors."""
        trained, self._trained = self._trained, set()
        for name, head in self.by_dataset.items():
            # Without any forward pass the first head says that it has no gradient.
            no_samples = bool(trained) and name not in trained
            head.step(lr, grad_scale=grad_scale, skip=skip, no_samples=no_samples)

    @torch.no_grad()
    def gradients_finite(self) -> Tensor:
        """Return whether the gradients of all heads are finite; see `PartialFC`."""
        finite = [head.gradients_finite() for head in self.by_dataset.values()]
        return torch.stack(finite).all()

    @torch.no_grad()
    def step_figures(self, grad_scale: float | Tensor = 1.0) -> dict[str, Tensor]:
        """Return the figures of all heads that take part in the step; see `PartialFC`.

        By name for the whole, and by `name/dataset`.
        """
        # Without any forward pass the first head says that it has no gradient.
        own = {
            name: head.step_figures(grad_scale)
            for name, head in self.by_dataset.items()
            if name in (self._trained or self.by_dataset)
        }
        joined = _join(own, dict.fromkeys(own, 1.0 / len(own)))
        return {name: torch.as_tensor(value) for name, value in joined.items()}

    @torch.no_grad()
    def sample_figures(self) -> dict[str, Tensor]:
        """Return a number of each sample of the step; see `PartialFC`.

        By name for the samples of all heads, and by `name/dataset`.
        """
        figures: dict[str, list[Tensor]] = {}
        for dataset, head in self.by_dataset.items():
            if dataset in (self._trained or self.by_dataset):
                for name, value in head.sample_figures().items():
                    figures.setdefault(name, []).append(value)
                    figures[f"{name}/{dataset}"] = [value]
        return {name: torch.cat(values) for name, values in figures.items()}

    def forget(self) -> None:
        """See `PartialFC.forget`."""
        for head in self.by_dataset.values():
            head.forget()

    def _outputs(self, embeddings: Tensor, split: _Split) -> dict[str, HeadOutput]:
        """Return what each head makes of its samples; of those that have some on any rank."""
        sorted_bd = embeddings.index_select(0, split.order)
        parts = torch.split(sorted_bd, [len(part) for part in split.label_parts])
        outputs: dict[str, HeadOutput] = {}
        for (name, head), part, label_part, sizes in zip(
            self.by_dataset.items(), parts, split.label_parts, split.sizes, strict=True
        ):
            if any(sizes):
                outputs[name] = head(part, label_part, sizes)
        if torch.is_grad_enabled():
            self._trained.update(outputs)
        return outputs

    def _split(self, labels: Tensor, batch_sizes: Sequence[int] | None) -> _Split:
        """Divide the batch by dataset. Collective: an all-gather of labels. The host waits."""
        label_b = labels.to(device=self.device, dtype=torch.int64).contiguous()
        sizes = self._collectives.batch_sizes(len(label_b), self.device, batch_sizes)
        # A label outside all classes goes to the first or the last head, which refuses it.
        label_N = self._collectives.gather_labels(label_b, sizes)
        dataset_N = torch.bucketize(label_N, self._bounds, right=True).cpu()
        datasets = len(self.by_dataset)
        count_WD = [
            part.bincount(minlength=datasets).tolist()
            for part in torch.split(dataset_N, list(sizes))
        ]
        by_dataset = [list(counts) for counts in zip(*count_WD, strict=True)]
        dataset_b = torch.bucketize(label_b, self._bounds, right=True)
        order = dataset_b.argsort(stable=True)
        own = [counts[self._collectives.rank] for counts in by_dataset]
        parts = torch.split(label_b.index_select(0, order), own)
        return _Split(
            labels=labels,
            version=None if labels.is_inference() else labels._version,
            order=order,
            label_parts=[part - start for part, start in zip(parts, self._starts, strict=True)],
            sizes=by_dataset,
        )


def heads_by_name(head: PartialFC | SeparateHeads) -> dict[str, PartialFC]:
    """Return a run's heads by the names of their rows in a checkpoint: `head`, or several."""
    if isinstance(head, PartialFC):
        return {"head": head}
    return {f"head.{dataset}": each for dataset, each in head.by_dataset.items()}


def head_seed(seed: int, number: int) -> int:
    """Return the seed of head `number` of a run with `seed`, as no two heads may start alike."""
    return (seed + number) % 2**63


def _join(
    own: Mapping[str, Mapping[str, Figure]], fractions: Mapping[str, float]
) -> dict[str, Figure]:
    """Return the figures of heads, by head and name, as those of the whole and of each head."""
    joined: dict[str, Figure] = {}
    for figure in next(iter(own.values())):
        values = {name: figures[figure] for name, figures in own.items()}
        if figure in _NORMS:
            joined[figure] = sum(value**2 for value in values.values()) ** 0.5
        elif figure in _SUMS:
            joined[figure] = sum(values.values())
        else:
            joined[figure] = sum(value * fractions[name] for name, value in values.items())
        joined.update({f"{figure}/{name}": value for name, value in values.items()})
    return joined
