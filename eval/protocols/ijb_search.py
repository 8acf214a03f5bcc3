"""IJB 1:N: probe templates are searched in galleries of subjects, mated and non-mated.

Shape legend: q searches (probe templates), e gallery templates, s gallery subjects.

A subject's score is that of its best template. A search is mated if its subject is in the gallery;
the rank of the mate is 1 + the other subjects that score at least as much, so ties lose. An alarm
is a search whose best score is above the threshold; FPIR is the part of the non-mated searches that
raise one. TPIR is the part of the mated ones with the mate at rank 1 and above the threshold, and
FNIR is 1 - TPIR (ISO/IEC 19795-1:2021).
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from eval.protocols.bootstrap import Bootstrap, Counts, PairSubjects, Replicates, mean_replicates
from eval.protocols.ijb_files import Subjects, shorten
from eval.protocols.ijb_verification import SCORE_DECIMALS, Templates
from eval.protocols.rates import Floats, Interval, allowed_errors, needed_trials, warn, wilson

RANKS: Final = (1, 5, 10, 20)
FPIRS: Final = (1e-3, 1e-2, 1e-1)
PUBLISHED_FPIRS: Final = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
PUBLISHED_CLOSED_FARS: Final = (1e-2, 1e-1)
SEARCH_CHUNK: Final = 1 << 10


@dataclass(frozen=True)
class TpirAtFpir:
    """The operating point at one FPIR; `tpir` is None with a reason, or a number."""

    fpir: float
    tpir: float | None
    reason: str | None = None
    threshold: float | None = None  # None where every search raises an alarm
    fpir_achieved: float | None = None
    tpir_wilson95: Interval | None = None
    false_alarms: int | None = None
    hits: int | None = None


@dataclass(frozen=True)
class Search:
    """The figures of one gallery; `rank` is None for all k where no search is mated."""

    gallery_templates: int
    gallery_subjects: int
    searches: int
    mated: int
    non_mated: int
    rank: dict[int, float | None]
    rank_hits: dict[int, int]
    rank_wilson95: dict[int, Interval | None]
    tpir_at_fpir: tuple[TpirAtFpir, ...]


@dataclass(frozen=True)
class CombinedSearch:
    """The figures of all galleries: ranks over all mated searches, the mean of the TPIR."""

    rank: dict[int, float | None]
    tpir_at_fpir: tuple[TpirAtFpir, ...]


@dataclass(frozen=True)
class PublishedPoint:
    """A row of a published table, by the rule of the script that prints it."""

    far: float
    tpir: float | None
    threshold: float | None


@dataclass(frozen=True)
class PublishedSearch:
    """What `ijb_evals.py` prints of one gallery."""

    hits: dict[int, int]
    mated: int
    table: tuple[PublishedPoint, ...]


@dataclass(frozen=True)
class PublishedClosedPoint:
    """A row of what insightface's `ijb_1n.py` prints."""

    far: float
    recall: float
    threshold: float


@dataclass(frozen=True)
class PublishedClosedSearch:
    """What insightface's `ijb_1n.py` prints: a closed set, one gallery."""

    rank: dict[int, float | None]
    table: tuple[PublishedClosedPoint, ...]


@dataclass(frozen=True)
class Searches:
    """What is known of each search of the probes in one gallery."""

    gallery_templates: int
    gallery_subjects: int
    best_q: Floats  # of all subjects
    mate_q: Floats  # NaN where the search is not mated
    rank_q: NDArray[np.int64]  # 0 where the search is not mated
    other_k: Floats  # the highest scores of subjects who are not the mate, descending

    @property
    def mated_q(self) -> NDArray[np.bool_]:
        """Whether the subject of each search is in the gallery."""
        return self.rank_q > 0

    def hits(self, rank: int) -> int:
        """Return how many mated searches have the mate among the first `rank` subjects."""
        return int(np.count_nonzero(self.mated_q & (self.rank_q <= rank)))

    def hits_above(self, threshold: float) -> int:
        """Return how many mated searches have the mate at rank 1 and above the threshold."""
        return int(np.count_nonzero((self.rank_q == 1) & (self.mate_q > threshold)))


def run_searches(
    templates: Templates,
    gallery: Subjects,
    probes: Subjects,
    *,
    closed: bool = False,
    keep_others: int = 0,
) -> Searches:
    """Search every probe in the gallery; `keep_others` highest scores of non-mates are kept.

    Raises `ValueError` for an empty gallery or no probes, for templates without a face, for a
    template on both sides, and in a closed set for a probe without a mate. Warns where all scores
    are equal.
    """
    _check_sides(templates, gallery, probes, closed)
    # The templates of a subject next to each other, so that they reduce to the best.
    order_e = np.argsort(gallery.subject_t, kind="stable")
    subject_s, start_s = np.unique(gallery.subject_t[order_e], return_index=True)
    gallery_ed = templates.vector_td[templates.positions(gallery.template_t[order_e])]
    probe_q = templates.positions(probes.template_t)
    row_q = np.minimum(np.searchsorted(subject_s, probes.subject_t), len(subject_s) - 1)
    mated_q = subject_s[row_q] == probes.subject_t
    best_q, mate_q = np.empty(len(probe_q)), np.full(len(probe_q), np.nan)
    rank_q = np.zeros(len(probe_q), dtype=np.int64)
    other_k = np.empty(0)
    lowest = math.inf
    for start in range(0, len(probe_q), SEARCH_CHUNK):
        part = slice(start, start + SEARCH_CHUNK)
        score_eq = (gallery_ed @ templates.vector_td[probe_q[part]].T).round(SCORE_DECIMALS)
        score_sq = np.maximum.reduceat(score_eq, start_s, axis=0)
        best_q[part] = score_sq.max(axis=0)
        lowest = min(lowest, score_sq.min())
        mated = np.flatnonzero(mated_q[part])
        mate = (row_q[part][mated], mated)
        mate_q[start + mated] = score_sq[mate]
        at_least_q = np.count_nonzero(score_sq >= mate_q[part], axis=0)
        rank_q[start + mated] = at_least_q[mated]
        if keep_others:
            score_sq[mate] = -np.inf
            other_k = np.sort(np.append(other_k, score_sq[np.isfinite(score_sq)]))[-keep_others:]
    if lowest == best_q.max() and len(probe_q) * len(subject_s) > 1:
        warn(
            f"all scores of {len(probe_q)} searches in {len(subject_s)} subjects are {lowest}: "
            "expected different ones; the network has collapsed, or embeddings were not computed"
        )
    return Searches(len(gallery_ed), len(subject_s), best_q, mate_q, rank_q, other_k[::-1])


def search(
    searches: Searches, ranks: Iterable[int] = RANKS, fpirs: Iterable[float] = FPIRS
) -> Search:
    """Return rank-k over the mated searches, and TPIR at each FPIR.

    The threshold of a rate is that of `rates.tar_at_far`, over the best scores of the non-mated
    searches: the achieved FPIR never exceeds it. Raises `ValueError` for a rate outside (0, 1].
    """
    mated = int(np.count_nonzero(searches.mated_q))
    alarm_n = np.sort(searches.best_q[~searches.mated_q])
    hits = {k: searches.hits(k) for k in ranks}
    return Search(
        gallery_templates=searches.gallery_templates,
        gallery_subjects=searches.gallery_subjects,
        searches=len(searches.best_q),
        mated=mated,
        non_mated=len(alarm_n),
        rank={k: found / mated if mated else None for k, found in hits.items()},
        rank_hits=hits,
        rank_wilson95={k: wilson(found, mated) if mated else None for k, found in hits.items()},
        tpir_at_fpir=tuple(_tpir_at_fpir(searches, alarm_n, mated, fpir) for fpir in fpirs),
    )


def bootstrap_searches(searches: Searches, probes: Subjects) -> Bootstrap:
    """Return the searches for intervals of TPIR at FPIR, as `tar_intervals` gives them.

    Subjects of the probes are drawn, and the gallery stays as it is. TPIR at FPIR is TAR at FAR of
    the mated and the non-mated searches, where a mate that is not at rank 1 never scores enough.
    """
    hit_q = np.where(searches.rank_q == 1, searches.mate_q, -np.inf)
    score_q = np.where(searches.mated_q, hit_q, searches.best_q)
    subject_s, subject_q = np.unique(probes.subject_t, return_inverse=True)
    return Bootstrap(score_q, searches.mated_q, PairSubjects(subject_q, None, len(subject_s)))


def rank_replicates(
    searches: Searches, probes: Subjects, draws: Iterable[Counts], rank: int
) -> Replicates:
    """Return rank-k in each replicate, of subjects of the probes; None without mated searches.

    The draws are those of `bootstrap_searches`.
    """
    subject_m = np.unique(probes.subject_t, return_inverse=True)[1][searches.mated_q]
    return mean_replicates(searches.rank_q[searches.mated_q] <= rank, subject_m, draws)


def combine(galleries: Mapping[str, Search]) -> CombinedSearch:
    """Return rank-k over the mated searches of all galleries, and the mean of their TPIR.

    A TPIR is None where a gallery has none, with the reasons of all that lack it.
    """
    results = list(galleries.values())
    mated = sum(one.mated for one in results)
    points = []
    for row in zip(*(one.tpir_at_fpir for one in results), strict=True):
        values = [point.tpir for point in row if point.tpir is not None]
        reasons = [
            f"{name}: {point.reason}"
            for name, point in zip(galleries, row, strict=True)
            if point.tpir is None
        ]
        mean = None if reasons else sum(values) / len(values)
        points.append(TpirAtFpir(row[0].fpir, mean, "; ".join(reasons) or None))
    rank = {
        k: sum(one.rank_hits[k] for one in results) / mated if mated else None
        for k in results[0].rank_hits
    }
    return CombinedSearch(rank, tuple(points))


def published_search(
    searches: Searches,
    ranks: Iterable[int] = RANKS,
    fpirs: Iterable[float] = PUBLISHED_FPIRS,
) -> PublishedSearch:
    """Return what `ijb_evals.py` prints: one alarm fewer than the rate allows.

    The threshold is the `max(int(n · f) - 1, 0)`-th highest best score of n non-mated searches,
    counted from 0. So it has a number for every rate, and FPIR 0 under the label f if n · f < 2.
    """
    mated = int(np.count_nonzero(searches.mated_q))
    alarm_n = np.sort(searches.best_q[~searches.mated_q])[::-1]
    table = []
    for fpir in fpirs:
        if not mated or not len(alarm_n):
            table.append(PublishedPoint(fpir, None, None))
            continue
        threshold = float(alarm_n[max(int(len(alarm_n) * fpir) - 1, 0)])
        table.append(PublishedPoint(fpir, searches.hits_above(threshold) / mated, threshold))
    return PublishedSearch({k: searches.hits(k) for k in ranks}, mated, tuple(table))


def published_closed_search(
    templates: Templates,
    galleries: Iterable[Subjects],
    probes: Subjects,
    ranks: Iterable[int] = RANKS,
    fars: Iterable[float] = PUBLISHED_CLOSED_FARS,
) -> PublishedClosedSearch:
    """Return what insightface's `ijb_1n.py` prints: the galleries as one, every probe has a mate.

    The threshold is the ceil(probes · f)-th highest score of all that are not of a mate; recall is
    the part of the probes whose mate scores above it, at any rank. Raises as `run_searches` does.
    """
    fars = tuple(fars)
    galleries = tuple(galleries)
    both = Subjects(
        np.concatenate([one.template_t for one in galleries]),
        np.concatenate([one.subject_t for one in galleries]),
    )
    needed = [math.ceil(len(probes.template_t) * far) for far in fars]
    found = run_searches(templates, both, probes, closed=True, keep_others=max(needed))
    searches = len(found.rank_q)
    table = []
    for far, count in zip(fars, needed, strict=True):
        if count > len(found.other_k):
            raise ValueError(
                f"FAR {far} of {searches} probes needs {count} scores of non-mates, there are "
                f"{len(found.other_k)}: expected a larger gallery"
            )
        threshold = float(found.other_k[count - 1])
        recall = int(np.count_nonzero(found.mate_q > threshold)) / searches
        table.append(PublishedClosedPoint(far, recall, threshold))
    return PublishedClosedSearch({k: found.hits(k) / searches for k in ranks}, tuple(table))


def _check_sides(templates: Templates, gallery: Subjects, probes: Subjects, closed: bool) -> None:
    for name, side in (("gallery", gallery), ("probes", probes)):
        if not len(side.template_t):
            raise ValueError(f"0 templates in the {name}: expected at least one")
        templates.require(side.template_t, f"the {name}")
    shared = np.intersect1d(gallery.template_t, probes.template_t)
    if len(shared):
        raise ValueError(
            f"{len(shared)} templates are in the gallery and among the probes: {shorten(shared)}; "
            "each would find itself: expected them on one side"
        )
    mated_q = np.isin(probes.subject_t, gallery.subject_t)
    if closed and not mated_q.all():
        raise ValueError(
            f"{np.count_nonzero(~mated_q)} of {len(mated_q)} probes have no mate in the gallery of "
            f"a closed set: {shorten(probes.template_t[~mated_q])}; expected a mate for each"
        )


def _tpir_at_fpir(searches: Searches, alarm_n: Floats, mated: int, fpir: float) -> TpirAtFpir:
    n = len(alarm_n)
    allowed = allowed_errors(fpir, n)
    if allowed == 0:
        reason = f"needs {needed_trials(fpir)} non-mated searches, there are {n}"
        return TpirAtFpir(fpir, None, reason)
    if not mated:
        return TpirAtFpir(fpir, None, "needs mated searches, there are 0")
    threshold = float(alarm_n[n - 1 - allowed]) if allowed < n else -math.inf
    hits, alarms = searches.hits_above(threshold), int(np.count_nonzero(alarm_n > threshold))
    return TpirAtFpir(
        fpir=fpir,
        tpir=hits / mated,
        threshold=None if math.isinf(threshold) else threshold,
        fpir_achieved=alarms / n,
        tpir_wilson95=wilson(hits, mated),
        false_alarms=alarms,
        hits=hits,
    )
