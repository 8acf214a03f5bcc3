"""Tests of `eval.suites.scored` and `eval.suites.compare` on the golden scored pairs."""

import csv
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eval.protocols.bootstrap import Bootstrap, PairSubjects, draw_counts, percentile_interval
from eval.protocols.rates import ScoredPairs, warn
from eval.results import Counts, SetResult
from eval.suites.compare import calibrate, compare
from eval.suites.scored import (
    Draws,
    Scored,
    d_prime,
    det_curve,
    groups_of,
    histogram,
    noted,
    verification,
)

GOLDEN = Path(__file__).parents[2] / "fixtures" / "evaluation" / "scored_pairs"
FARS = (1e-1, 1e-2, 1e-3, 1e-6)
DRAWS = Draws(60, 3)


@pytest.fixture(scope="module")
def columns() -> dict[str, np.ndarray]:
    with (GOLDEN / "pairs.csv").open(encoding="utf-8", newline="") as file:
        names, *rows = list(csv.reader(file))
    return dict(zip(names, np.array(rows).T, strict=True))


@pytest.fixture(scope="module")
def inputs(columns: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray, PairSubjects]:
    first_p, second_p = (columns[name].astype(int) - 1 for name in ("subject_a", "subject_b"))
    subjects = PairSubjects(first_p, second_p, int(max(first_p.max(), second_p.max())) + 1)
    return columns["score"].astype(float), columns["same"] == "1", subjects


@pytest.fixture(scope="module")
def scored(inputs: tuple[np.ndarray, np.ndarray, PairSubjects]) -> Scored:
    return verification(*inputs, FARS, DRAWS)


def entry(name: str, scored: Scored, protocol: str = "pairs") -> tuple[SetResult, Scored]:
    counts = Counts(0, None, None, None, None, None, 0, 0)
    return SetResult("model", name, protocol, {}, (), counts, ()), scored


def test_figures_are_the_golden_ones(scored: Scored) -> None:
    expected: dict[str, Any] = json.loads((GOLDEN / "expected.json").read_text())["rates"]
    figures = scored.figures
    assert figures.auc == pytest.approx(expected["auc"], abs=1e-12)
    assert figures.eer.eer == expected["eer"]["eer"]
    golden = {point["far"]: point["tar"] for point in expected["tar_at_far"]}
    published = {point["far"]: point["tpr"] for point in expected["published_tpr_at_fpr"]}
    for row in figures.rows:
        assert row.point.tar == golden[row.point.far]
        assert row.published_tpr == published[row.point.far]
        if row.point.threshold is None:
            assert row.point.reason is not None
            assert row.interval is None
        else:
            assert row.threshold_distance == pytest.approx(2 - 2 * row.point.threshold)
            assert row.few_errors == (row.point.false_accepts is not None
                                      and row.point.false_accepts < 30)  # fmt: skip


def test_intervals_are_those_of_the_bootstrap(
    scored: Scored, inputs: tuple[np.ndarray, np.ndarray, PairSubjects]
) -> None:
    score_p, same_p, subjects = inputs
    expected = Bootstrap(score_p, same_p, subjects).tar_intervals(FARS, DRAWS.replicates, 3)
    found = [row.interval for row in scored.figures.rows]
    assert found == [
        one if row.point.tar is not None else None
        for one, row in zip(expected, scored.figures.rows, strict=True)
    ]
    by_pair = verification(score_p, same_p, None, FARS, DRAWS).figures
    assert "too narrow" in by_pair.interval_method
    for point in scored.figures.band:
        assert point.low <= point.tar <= point.high


def test_the_curve_has_every_score_or_a_spread(scored: Scored) -> None:
    pairs = scored.pairs
    whole = det_curve(pairs, most=10**6)
    thin = det_curve(pairs, most=40)
    assert whole.complete
    assert not thin.complete
    assert len(thin.threshold) < 90
    assert set(thin.threshold) <= set(whole.threshold)
    assert list(thin.threshold) == sorted(thin.threshold)
    for threshold, fmr, fnmr in zip(thin.threshold, thin.fmr, thin.fnmr, strict=True):
        rates = pairs.at_threshold(threshold)
        assert (fmr, fnmr) == (rates.fmr, rates.fnmr)
    least = min(fmr for fmr in thin.fmr if fmr)
    assert least == min(fmr for fmr in whole.fmr if fmr)


def test_the_histogram_counts_every_pair(scored: Scored) -> None:
    found = histogram(scored.pairs, bins=7)
    assert len(found.edges) == 8
    assert sum(found.genuine) == len(scored.pairs.genuine_g)
    assert sum(found.impostor) == len(scored.pairs.impostor_n)
    flat = histogram(ScoredPairs(np.full(3, 0.5), np.full(2, 0.5)))
    assert (sum(flat.genuine), sum(flat.impostor)) == (3, 2)


def test_each_group_has_a_threshold_and_a_curve_of_its_own(
    inputs: tuple[np.ndarray, np.ndarray, PairSubjects],
) -> None:
    score_p, same_p, subjects = inputs
    assert subjects.second_p is not None
    of_subject = np.array(["a", "b", "alone"])[np.minimum(np.arange(subjects.count) % 2, 1)]
    of_subject[0] = "alone"  # one person makes no impostor pair
    group_2p = np.stack(
        [of_subject[subjects.first_p], of_subject[subjects.second_p]], axis=1
    ).ravel()
    found, curves = groups_of(score_p, same_p, group_2p, 0.05)
    assert [one.group for one in found.groups] == ["a", "alone", "b"]
    assert [one.group for one in curves] == ["a", "b"]
    for one in curves:
        inside_p = (group_2p[0::2] == one.group) & (group_2p[1::2] == one.group)
        pairs = ScoredPairs(score_p[inside_p & same_p], score_p[inside_p & ~same_p])
        assert one.own == pairs.tar_at_far(0.05)
        assert one.det.least_fmr == 1 / len(pairs.impostor_n)
        assert one.det == det_curve(pairs, 150)


def test_d_prime() -> None:
    assert d_prime(ScoredPairs(np.array([1.0, 3.0]), np.array([-1.0, 1.0]))) == 2.0
    assert d_prime(ScoredPairs(np.ones(2), np.zeros(3))) is None


def test_models_are_compared_replicate_by_replicate(
    scored: Scored, inputs: tuple[np.ndarray, np.ndarray, PairSubjects]
) -> None:
    score_p, same_p, subjects = inputs
    worse_p = score_p - 0.05 * same_p * np.random.default_rng(0).random(len(score_p))
    worse = verification(worse_p, same_p, subjects, FARS, DRAWS)
    found = compare(entry("set", worse), entry("set", scored))
    draws = list(draw_counts(subjects.count, DRAWS.replicates, DRAWS.seed))
    for index, one in enumerate(found):
        if one.difference is None:
            assert one.reason is not None
            assert one.interval is None
            continue
        tars = [
            Bootstrap(scores, same_p, subjects).tar_at_far(draws, [FARS[index]])[0]
            for scores in (worse_p, score_p)
        ]
        differences = [
            None if a is None or b is None else a - b for a, b in zip(*tars, strict=True)
        ]
        assert one.interval is not None
        assert one.interval.interval95 == percentile_interval(differences)
        assert one.difference <= 0
    same = compare(entry("set", scored), entry("set", scored))
    assert {one.difference for one in same} == {0.0, None}
    assert same[0].interval is not None
    assert same[0].interval.interval95 == (0.0, 0.0)


def test_a_threshold_is_carried_to_other_sets(scored: Scored) -> None:
    harder = Scored(
        ScoredPairs(scored.pairs.genuine_g - 0.1, scored.pairs.impostor_n + 0.1),
        scored.figures, FARS, scored.replicates,
    )  # fmt: skip
    entries = [entry("a", scored), entry("b", harder), entry("c", harder, "ijb_1_1")]
    (found,) = calibrate(entries, "a", 1e-2)
    point = scored.pairs.tar_at_far(1e-2)
    assert point.threshold is not None
    assert (found.applied_to, found.promised_tar) == ("b", point.tar)
    assert found.found == harder.pairs.at_threshold(point.threshold)
    (none,) = calibrate(entries, "a", 1e-6)
    assert none.found is None
    assert none.reason is not None
    (everything,) = calibrate(entries, "a", 1.0)
    assert (everything.found, everything.reason is None) == (None, False)


def _warn_twice() -> list[str]:
    with noted() as found:
        warn("ours")
        warnings.warn("other", UserWarning, stacklevel=1)
    return found


def test_only_what_protocols_warn_of_is_noted() -> None:
    with pytest.warns(UserWarning, match="other"):
        found = _warn_twice()
    assert found == ["ours"]
