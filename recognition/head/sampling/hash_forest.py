"""HF-Softmax: the classes nearest to the batch, from an approximate index of the centres.

After "Accelerated Training for Massive Classification via Dynamic Class Selection" (Zhang et al.,
arXiv 1801.01687), with another index in place of its random trees: a partition of the centres into
about sqrt(L) cells by k-means; a query searches the nearest few, and centres are stored in 8
bits per number. For 100,000 centres (d = 512), two cores build it in 1.8 s and a quarter of the
table's memory; a graph of neighbours (HNSW, 16 links) took 9.6 s and more than all of it.

Shapes: N samples of the global batch, L classes of this rank's shard, R classes of a block, K
centres per class, k neighbours per sample, d embedding size.
"""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recognition.head.choices import check
from recognition.head.sampling.by_score import take_best
from recognition.head.sampling.rule import ActiveSet, Sampler, SampleRequest, TableReader

# Cells that a query searches, at least. On 20,000 trained centres in 141 cells (d = 128), 16, 32,
# 64 and all gave sets at rate 0.1 that held 0.57, 0.71, 0.85 and 0.93 of the softmax's gradient.
_PROBES = 32
_SPARE = 4  # and at least enough to hold this many times the neighbours wanted
_POINTS = 32  # centres per cell that the partition is made from
_ROUNDS = 4  # of k-means, each as expensive as adding `_POINTS·cells` centres to the index
_ROWS = 1 << 14  # classes read at a time
_NOT_FOUND = -2.0  # below any cosine


class HashForest(Sampler):
    """Take the batch's classes, the nearest to its samples, and random ones up to the quota.

    An index of the shard's normalised centres is built every `rebuild_every` steps. In between it
    grows stale: it is searched with new embeddings, but holds old centres. Each sample gets its
    `neighbours` nearest; of all that are found the best are taken, and where they are fewer than
    the quota, random classes fill it: those of the smallest hash of (seed, step, class id). See
    `take_best`.

    The index takes d bytes per centre, on the CPU, wherever the centres live. It is the same for
    the same seed, centres and number of threads. Stale by 100 steps of late training, it found
    about what a fresh one does. `hard_negative` finds more, and without an index.

    Tested on Linux only. On macOS, torch and faiss each bring an OpenMP library of their own, which
    are known to crash each other (faiss-wheels issue 73).

    **Resuming.** The index is built at steps that `rebuild_every` divides, and whenever there is
    none. It is not saved. A run that resumes at such a step continues as if it had never stopped;
    at another it indexes newer centres than an uninterrupted run has in its index, and the sets
    differ until the next rebuild. `forget()`, to be called when a checkpoint is saved, removes that
    difference: the run that continues then builds a new index too.

    Args:
        rebuild_every: steps between two builds, at least 1.
        neighbours: per sample, k; None for `ceil(quota / N)`, with which the neighbours of a batch
            would be the quota if no two samples had one in common.

    Raises `ValueError` for a setting out of its range, or when faiss is not installed.
    """

    uses_embeddings = True

    def __init__(self, rebuild_every: int, neighbours: int | None = None) -> None:
        check(rebuild_every >= 1, "rebuild_every", rebuild_every, "at least 1 step")
        some = neighbours is None or neighbours >= 1
        check(some, "neighbours", neighbours, "at least 1, or None")
        _faiss()
        self.rebuild_every = rebuild_every
        self.neighbours = neighbours
        self._index: Any = None
        self._built_at = -1

    def __call__(self, request: SampleRequest) -> ActiveSet:
        """Return the classes of this rank that take part in a step."""
        unit_Nd, table = request.embeddings_and_centres()
        return take_best(request, lambda: self._scores(unit_Nd, table, request))

    def forget(self) -> None:
        """Drop the index: the next step builds a new one."""
        self._index = None

    def _scores(self, unit_Nd: Tensor, table: TableReader, request: SampleRequest) -> Tensor:
        """Return each class's largest cosine with a sample that found it, else −2: float32 [L]."""
        due = request.step % self.rebuild_every == 0 and self._built_at != request.step
        if due or self._index is None:
            self._index = build_index(table, request.seed)
            self._built_at = request.step
        wanted = self.neighbours or math.ceil(request.shard_quota / max(len(unit_Nd), 1))
        cosine_Nk, row_Nk = nearest(self._index, unit_Nd, wanted)
        class_Nk = row_Nk // (self._index.ntotal // table.rows)
        # What was not found, row −1, has a cosine below any: it changes no score, nor class 0's.
        score_L = unit_Nd.new_full((table.rows,), _NOT_FOUND)
        row_J = class_Nk.clamp_min(0).flatten()  # J = N·k
        return score_L.scatter_reduce_(0, row_J, cosine_Nk.flatten(), "amax")


def build_index(table: TableReader, seed: int) -> Any:
    """Return a faiss index of the table's normalised centres: L·K rows, class by class."""
    faiss = _faiss()
    cells = max(1, math.isqrt(table.rows))
    stride = max(1, table.rows // (_POINTS * cells))
    sample = [
        _normalised(centres_RKd[-start % stride :: stride])
        for start, _, centres_RKd in table.blocks(_ROWS)
    ]
    points = np.concatenate(sample)
    index: Any = faiss.index_factory(points.shape[1], f"IVF{cells},SQ8", faiss.METRIC_INNER_PRODUCT)
    index.cp.seed = seed & 0x7FFFFFFF
    index.cp.niter = _ROUNDS
    index.cp.spherical = True
    index.cp.min_points_per_centroid = 1
    index.cp.max_points_per_centroid = len(points)
    index.train(points)
    for _, _, centres_RKd in table.blocks(_ROWS):
        index.add(_normalised(centres_RKd))
    return index


def nearest(index: Any, unit_Nd: Tensor, neighbours: int) -> tuple[Tensor, Tensor]:
    """Return the cosines with the nearest rows, float32 [N, k], and the rows, int64 [N, k].

    Both on the samples' device; k is `neighbours` or all there are. Where the cells searched hold
    fewer, the row is −1 and the cosine far below any.
    """
    _faiss()
    neighbours = min(neighbours, index.ntotal)
    enough = math.ceil(_SPARE * neighbours * index.nlist / index.ntotal)
    index.nprobe = min(index.nlist, max(_PROBES, enough))
    cosine_Nk, row_Nk = index.search(unit_Nd.float().cpu().numpy(), neighbours)
    device = unit_Nd.device
    return torch.from_numpy(cosine_Nk).to(device), torch.from_numpy(row_Nk).to(device)


def _normalised(centres_RKd: Tensor) -> np.ndarray[Any, np.dtype[np.float32]]:
    unit = torch.nn.functional.normalize(centres_RKd.detach().flatten(0, 1), dim=1, eps=1e-12)
    return unit.cpu().numpy()


def _faiss() -> Any:
    """Return the faiss module, set to as many threads as torch; raises `ValueError` without it."""
    try:
        import faiss
    except ModuleNotFoundError as error:
        raise ValueError(
            "sampling: hash_forest needs faiss, which is not installed: "
            "pip install 'partialfc[forest]'"
        ) from error
    faiss.omp_set_num_threads(torch.get_num_threads())
    return faiss
