"""IJB 1:N against its definition, written as loops over searches."""

import itertools

import numpy as np
import pytest

from eval.protocols import ijb_search
from eval.protocols.bootstrap import draw_counts
from eval.protocols.ijb_files import Subjects
from eval.protocols.ijb_search import (
    Searches,
    bootstrap_searches,
    combine,
    published_closed_search,
    published_search,
    rank_replicates,
    run_searches,
    search,
)
from eval.protocols.ijb_verification import Templates
from eval.protocols.rates import Floats, wilson

D = 3
rng = np.random.default_rng(0)
# Rounded, so that some scores tie.
VECTORS = np.round(rng.normal(size=(60, D)), 1)
TEMPLATES = Templates(np.arange(60) * 10**9, VECTORS, (), 60)
# Subjects 0 … 9 with two templates each; the probes are of 0 … 15.
GALLERY = Subjects(np.arange(20) * 10**9, np.tile(np.arange(10), 2)[::-1].copy())
PROBES = Subjects(np.arange(20, 60) * 10**9, np.arange(40) % 16)


def scores_of(probe: int) -> dict[int, float]:
    """The best score of each subject."""
    best: dict[int, float] = {}
    for template, subject in zip(GALLERY.template_t, GALLERY.subject_t, strict=True):
        score = float(np.round(VECTORS[probe] @ VECTORS[template // 10**9], 12))
        best[int(subject)] = max(score, best.get(int(subject), -np.inf))
    return best


def by_definition() -> tuple[Floats, list[int], Floats]:
    best, ranks, mates = [], [], []
    for template, subject in zip(PROBES.template_t, PROBES.subject_t, strict=True):
        scores = scores_of(int(template) // 10**9)
        best.append(max(scores.values()))
        mate = scores.pop(int(subject), None)
        mates.append(np.nan if mate is None else mate)
        ranks.append(0 if mate is None else 1 + sum(other >= mate for other in scores.values()))
    return np.array(best), ranks, np.array(mates)


@pytest.mark.parametrize("chunk", [7, 1000])
def test_searches(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ijb_search, "SEARCH_CHUNK", chunk)
    found = run_searches(TEMPLATES, GALLERY, PROBES)
    best, ranks, mates = by_definition()
    assert found.best_q == pytest.approx(best, abs=1e-12)
    assert found.rank_q.tolist() == ranks
    np.testing.assert_allclose(found.mate_q, mates, atol=1e-12)
    assert (found.gallery_templates, found.gallery_subjects) == (20, 10)


def made(best: list[float], mate: list[float], rank: list[int]) -> Searches:
    return Searches(4, 4, np.array(best), np.array(mate), np.array(rank), np.empty(0))


NAN = float("nan")
# Ten non-mated searches with best scores 0.0 … 0.9, and four mated ones.
MIXED = made(
    [k / 10 for k in range(10)] + [0.95, 0.85, 0.8, 0.99],
    [NAN] * 10 + [0.95, 0.85, 0.8, 0.5],
    [0] * 10 + [1, 1, 1, 3],
)


def test_tpir_keeps_the_fpir_and_needs_the_mate_at_rank_one() -> None:
    found = search(MIXED, [1, 2, 3], [0.05, 0.1, 0.2, 1.0])
    assert (found.searches, found.mated, found.non_mated) == (14, 4, 10)
    assert found.rank_hits == {1: 3, 2: 3, 3: 4}
    assert found.rank == {1: 0.75, 2: 0.75, 3: 1.0}
    assert found.rank_wilson95[1] == wilson(3, 4)
    none, tenth, fifth, every = found.tpir_at_fpir
    assert none.tpir is None
    assert none.reason == "needs 20 non-mated searches, there are 10"
    assert (tenth.threshold, tenth.fpir_achieved, tenth.tpir) == (0.8, 0.1, 0.5)
    assert (fifth.threshold, fifth.fpir_achieved, fifth.tpir) == (0.7, 0.2, 0.75)
    assert (every.threshold, every.fpir_achieved, every.tpir) == (None, 1.0, 0.75)


def test_a_draw_of_probe_subjects_repeats_their_searches() -> None:
    found = run_searches(TEMPLATES, GALLERY, PROBES)
    bootstrap = bootstrap_searches(found, PROBES)
    assert bootstrap.units == 16
    draws = list(draw_counts(16, 10, seed=0))
    tars = bootstrap.tar_at_far(draws, [0.1, 0.3, 1.0])
    for r, draw in enumerate(draws):
        weight = draw[PROBES.subject_t]
        again = Searches(
            20,
            10,
            np.repeat(found.best_q, weight),
            np.repeat(found.mate_q, weight),
            np.repeat(found.rank_q, weight),
            found.other_k,
        )
        points = search(again, [1], [0.1, 0.3, 1.0]).tpir_at_fpir
        assert [one[r] for one in tars] == [point.tpir for point in points]


def test_no_mated_search_has_no_rank() -> None:
    found = search(made([0.1, 0.2], [NAN, NAN], [0, 0]), [1], [0.5])
    assert found.rank == {1: None}
    assert found.tpir_at_fpir[0].tpir is None
    assert found.tpir_at_fpir[0].reason is not None
    assert combine({"G1": found}).rank == {1: None}
    (point,) = published_search(made([0.1], [NAN], [0]), [1], [0.5]).table
    assert (point.tpir, point.threshold) == (None, None)


def test_the_published_table_allows_an_alarm_less_and_has_a_number_for_every_rate() -> None:
    table = published_search(MIXED, [1], [1e-4, 0.1, 0.2, 0.3, 1.0]).table
    assert [point.threshold for point in table] == [0.9, 0.9, 0.8, 0.7, 0.0]
    assert [point.tpir for point in table] == [0.25, 0.25, 0.5, 0.75, 0.75]


def test_galleries_together() -> None:
    one = search(MIXED, [1], [0.05, 0.1])
    other = search(made([0.3] * 10 + [0.9], [NAN] * 10 + [0.9], [0] * 10 + [1]), [1], [0.05, 0.1])
    both = combine({"G1": one, "G2": other})
    assert both.rank == {1: 4 / 5}
    assert [point.tpir for point in both.tpir_at_fpir] == [None, (0.5 + 1.0) / 2]
    assert both.tpir_at_fpir[0].reason is not None
    assert both.tpir_at_fpir[0].reason.startswith("G1: needs 20 ")


@pytest.mark.parametrize("chunk", [7, 1000])
def test_the_published_closed_set(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ijb_search, "SEARCH_CHUNK", chunk)
    probes = Subjects(PROBES.template_t[:10], PROBES.subject_t[:10])
    halves = [
        Subjects(GALLERY.template_t[part], GALLERY.subject_t[part])
        for part in (slice(0, 10), slice(10, 20))
    ]
    found = published_closed_search(TEMPLATES, halves, probes, [1, 5], [0.1, 0.25])
    tables = [scores_of(int(t) // 10**9) for t in probes.template_t]
    mates = [scores.pop(int(s)) for scores, s in zip(tables, probes.subject_t, strict=True)]
    others = sorted(itertools.chain(*(scores.values() for scores in tables)), reverse=True)
    for point, count in zip(found.table, [1, 3], strict=True):
        assert point.threshold == pytest.approx(others[count - 1], abs=1e-12)
        assert point.recall == sum(mate > others[count - 1] + 1e-12 for mate in mates) / 10
    ranks = [
        1 + sum(score >= mate for score in scores.values())
        for scores, mate in zip(tables, mates, strict=True)
    ]
    assert found.rank == {k: sum(rank <= k for rank in ranks) / 10 for k in (1, 5)}
    with pytest.raises(ValueError, match=r"100\.0.* 1000 .* 90\b"):
        published_closed_search(TEMPLATES, halves, probes, [1], [100.0])


def test_a_replicate_of_a_rank_counts_each_search_as_often_as_its_subject() -> None:
    found = run_searches(TEMPLATES, GALLERY, PROBES)
    draws = list(draw_counts(16, 5, seed=1))
    _, ranks, _ = by_definition()
    expected = []
    for draw in draws:
        repeated = [
            rank
            for rank, subject in zip(ranks, PROBES.subject_t, strict=True)
            for _ in range(draw[subject])
            if rank
        ]
        expected.append(sum(rank <= 2 for rank in repeated) / len(repeated))
    assert rank_replicates(found, PROBES, draws, 2) == expected
    assert rank_replicates(found, PROBES, [np.where(np.arange(16) < 10, 0, 2)], 2) == [None]
