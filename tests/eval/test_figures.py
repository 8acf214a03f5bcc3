"""Tests of `eval.figures`: names, values, words."""

import json
from pathlib import Path

import numpy as np
import pytest

from eval.figures import headline
from eval.protocols.megaface import Identification
from eval.protocols.tinyface import TinyFaceResult
from eval.results import Counts, Distractors, SetResult
from eval.suites.ijb import OpenIjb, judge_ijb
from eval.suites.images import Embedded
from eval.suites.pairs import judge_pairs, open_pairs
from eval.suites.scored import Searched
from eval.suites.settings import PairSet, Suite
from recognition.telemetry import named_figures
from tests.eval.suites.made_sets import embedder, model
from tests.eval.suites.test_ijb import SUITE, embedded, golden

__all__ = ["embedded", "golden"]

BINS = Path(__file__).parents[1] / "fixtures" / "bins"
COUNTS = Counts(1, 1, None, None, None, None, 0, 0)


def unscored(**parts: object) -> SetResult:
    return SetResult("", "made", "some", {}, (), COUNTS, ("a warning",), **parts)  # type: ignore[arg-type]


def test_pairs_have_the_published_accuracy_and_their_scores() -> None:
    settings = PairSet(file=BINS / "py3_list.bin")
    item = open_pairs("small", settings, Path())
    suite = Suite(pairs={"small": settings}, fars=[1e-1, 1e-3], replicates=0)
    result, scored = judge_pairs(item, "", embedder()(model(), item.images), suite)
    assert result.ten_fold is not None
    assert result.verification is not None
    assert [row.interval for row in result.verification.rows] == [None, None]
    assert not result.verification.band
    figures = headline([(result, scored)])
    assert figures.accuracy == result.ten_fold.accuracy
    values = json.loads(json.dumps(figures.to_json()))
    assert (values["set"], values["pairs"], values["flip"]) == ("small", 20, True)
    assert values["fold_accuracy"] == list(result.ten_fold.fold_accuracy)
    assert values["tar_at_far"] == {"1e-1": result.verification.rows[0].point.tar, "1e-3": None}
    assert figures.candidates().keys() == {
        f"small/{name}"
        for name in ("accuracy", "accuracy_no_flip", "auc", "tar_at_far/1e-1", "tar_at_far/1e-3")
    }
    assert figures.reasons().keys() == {"small/tar_at_far/1e-3"}
    assert f"accuracy {figures.accuracy:.4f} ± " in figures.summary()
    assert "1e-3" not in figures.summary()
    assert figures.scores is not None
    pairs = sorted(zip(figures.scores.cosine, figures.scores.same, strict=True))
    assert pairs == sorted(
        [(score, True) for score in scored.pairs.genuine_g]
        + [(score, False) for score in scored.pairs.impostor_n]
    )
    assert figures.scores.threshold == result.ten_fold.threshold_cosine


def test_the_first_mode_and_both_galleries_have_no_further_name(
    golden: OpenIjb, embedded: Embedded
) -> None:
    suite = SUITE.model_copy(update={"replicates": 0})
    entries = judge_ijb(golden, "", embedded, suite)
    first, second, searched = (one for one, _ in entries)
    assert searched.search is not None
    assert searched.search.galleries[0].tpir_intervals == (None,) * 3
    found = named_figures([headline(entries)])
    assert first.verification is not None
    assert second.verification is not None
    for number, rate in enumerate(("1e-2", "1e-3", "1e-4")):
        for prefix, one in (("", first.verification), ("N0D0F0/", second.verification)):
            tar = one.rows[number].point.tar
            assert found.get(f"golden/{prefix}tar_at_far/{rate}") == tar
    combined = searched.search.combined
    assert found["golden/rank/1"] == combined.rank[1]
    assert found["golden/tpir_at_fpir/1e-1"] == combined.tpir_at_fpir[2].tpir
    for gallery in searched.search.galleries:
        assert found[f"golden/{gallery.name}/rank/5"] == gallery.search.rank[5]
    summary = headline(entries).summary()
    assert "N0D0F0 TAR@FAR 1e-2" in summary
    assert f"{searched.search.galleries[0].name} rank 1 " in summary


def test_what_has_a_value_does_not_depend_on_the_embeddings(
    golden: OpenIjb, embedded: Embedded
) -> None:
    suite = SUITE.model_copy(update={"replicates": 0})
    noise = np.random.default_rng(0).standard_normal((*embedded.embeddings.shape[:2], 2))
    random = headline(judge_ijb(golden, "", Embedded(noise.astype(np.float32), True, 0.0), suite))
    real = headline(judge_ijb(golden, "", embedded, suite))
    assert {name: value is None for name, value in random.candidates().items()} == {
        name: value is None for name, value in real.candidates().items()
    }


def test_identification() -> None:
    def run(noise: str, distractors: int, rank: float) -> Distractors:
        return Distractors(noise, Identification(4, 2, distractors, 4, {1: rank}, ()))

    result = unscored(
        megaface=(run("as_listed", 10, 0.5), run("as_listed", 9, 0.6), run("dropped", 9, 0.7),
                  run("dropped", 9, 0.8)),
    )  # fmt: skip
    figures = headline([(result, Searched([]))])
    assert figures.candidates() == {
        "made/as_listed/10/rank/1": 0.5,
        "made/as_listed/9/rank/1": 0.6,
        "made/dropped/9/rank/1": 0.7,
        "made/dropped/9_2/rank/1": 0.8,
    }
    assert "dropped 9_2 rank 1 0.8000" in figures.summary()
    assert figures.accuracy is None
    tiny = headline(
        [(unscored(tinyface=TinyFaceResult(4, 3, 1, 9, {1: 0.25, 5: 0.5}, 0.3)), Searched([]))]
    )
    assert tiny.candidates() == {"made/rank/1": 0.25, "made/rank/5": 0.5, "made/map": 0.3}
    assert tiny.summary().endswith("WARNING: a warning")


@pytest.mark.parametrize(("far", "name"), [(0.1, "1e-1"), (1e-6, "1e-6"), (2.5e-3, "2.5e-3")])
def test_rates_are_named_as_people_write_them(far: float, name: str) -> None:
    settings = PairSet(file=BINS / "py3_list.bin")
    item = open_pairs("small", settings, Path())
    suite = Suite(pairs={"small": settings}, fars=[far], replicates=0)
    entry = judge_pairs(item, "", embedder()(model(), item.images), suite)
    assert list(headline([entry]).values["tar_at_far"]) == [name]
