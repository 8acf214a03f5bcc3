"""Tests of `eval.suites.ijb`: the golden figures, and the way from image files to templates."""

import dataclasses
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from eval.protocols.bootstrap import BY_PAIR, BY_SUBJECT
from eval.protocols.ijb_files import Landmarks, find_files, read_landmarks, read_lists
from eval.suites.compare import compare
from eval.suites.ijb import OpenIjb, judge_ijb, open_ijb
from eval.suites.images import Embedded, ImageList, ImageSet
from eval.suites.scored import Searched
from eval.suites.settings import IjbSet, Suite
from tests.eval.suites.made_sets import embedder, model

GOLDEN = Path(__file__).parents[2] / "fixtures" / "evaluation" / "ijb"
SETTINGS = IjbSet(meta=Path("meta"), images=Path("loose_crop"), modes=["N1D1F1", "N0D0F0"])


@pytest.fixture(scope="module")
def golden() -> OpenIjb:
    lists = read_lists(find_files(GOLDEN / "meta"))
    rows = np.arange(len(lists.faces.images))
    images = ImageSet(ImageList(GOLDEN, lists.faces.images), rows, rows, "ab")
    return OpenIjb("golden", SETTINGS, images, lists, (), ())


@pytest.fixture(scope="module")
def embedded() -> Embedded:
    content = np.load(GOLDEN / "embeddings.npz")
    return Embedded(np.stack([content["plain"], content["flipped"]], axis=1), True, 0.0)


SUITE = Suite(ijb={"golden": SETTINGS}, fars=[1e-2, 1e-3, 1e-4], replicates=20)


def test_the_golden_figures(golden: OpenIjb, embedded: Embedded) -> None:
    expected: dict[str, Any] = json.loads((GOLDEN / "expected.json").read_text())
    first, second, searched = (result for result, _ in judge_ijb(golden, "m", embedded, SUITE))
    for result, mode in ((first, "N1D1F1"), (second, "N0D0F0")):
        assert result.settings["mode"] == mode
        assert result.counts.templates == expected["counts"]["templates"]
        assert result.counts.media == expected["counts"]["media_in_templates"]
        assert result.counts.genuine == expected["counts"]["genuine"]
        assert result.verification is not None
        golden_tars = {
            point["far"]: point["tar"] for point in expected["modes"][mode]["tar_at_far"]
        }
        for row in result.verification.rows:
            assert row.point.tar == golden_tars[row.point.far]
    assert searched.search is not None
    for gallery in searched.search.galleries:
        values = expected["search_N1D1F1"][gallery.name]
        assert gallery.search.mated == values["mated"]
        assert {str(k): v for k, v in gallery.search.rank.items()}.items() >= values["rank"].items()
        found = {one.fpir: one.tpir for one in gallery.search.tpir_at_fpir}
        assert found == {one["fpir"]: one["tpir"] for one in values["tpir_at_fpir"]}
        assert gallery.cmc is not None
        assert gallery.cmc[4] == values["rank"]["5"]
        assert list(gallery.cmc) == sorted(gallery.cmc)
        assert gallery.open_set[-1][0] == 1.0
        for interval, one in zip(gallery.tpir_intervals, values["tpir_at_fpir"], strict=True):
            assert (interval is None) == (one["tpir"] is None)


def test_people_are_known_where_galleries_and_probes_name_all(
    golden: OpenIjb, embedded: Embedded
) -> None:
    one_mode = replace(golden, settings=SETTINGS.model_copy(update={"modes": ["N1D1F1"]}))
    result, scored = judge_ijb(one_mode, "m", embedded, SUITE)[0]
    assert result.verification is not None
    assert result.verification.interval_method == BY_SUBJECT
    assert scored is not None
    without = replace(one_mode, lists=replace(golden.lists, galleries={}))
    (found, _), *searches = judge_ijb(without, "m", embedded, SUITE)
    assert not searches
    assert found.verification is not None
    assert found.verification.interval_method == BY_PAIR
    assert any("no gallery" in warning for warning in found.warnings)
    flipped = replace(golden.lists.pairs, same_p=~golden.lists.pairs.same_p)
    wrong = replace(one_mode, lists=replace(golden.lists, pairs=flipped))
    found = judge_ijb(wrong, "m", embedded, SUITE)[0][0]
    assert any("contradicts" in warning for warning in found.warnings)


def test_searches_of_two_models_are_compared_by_the_same_draws(
    golden: OpenIjb, embedded: Embedded
) -> None:
    one_mode = replace(golden, settings=SETTINGS.model_copy(update={"modes": ["N1D1F1"]}))
    noise = np.random.default_rng(0).normal(0, 0.02, embedded.embeddings.shape)
    worse = replace(embedded, embeddings=embedded.embeddings + noise.astype(np.float32))
    _, (result, searched) = judge_ijb(one_mode, "worse", worse, SUITE)
    _, (base, base_searched) = judge_ijb(one_mode, "m", embedded, SUITE)
    assert isinstance(searched, Searched)
    assert isinstance(base_searched, Searched)
    assert result.search is not None
    assert base.search is not None
    found = {
        (one.figure, one.far): one for one in compare((result, searched), (base, base_searched))
    }
    for gallery, base_gallery in zip(result.search.galleries, base.search.galleries, strict=True):
        rank = found[f"rank-1, {gallery.name}", None]
        assert rank.difference is not None
        assert gallery.search.rank[1] is not None
        assert base_gallery.search.rank[1] is not None
        assert rank.difference == gallery.search.rank[1] - base_gallery.search.rank[1]
        assert rank.interval is not None
        assert (rank.interval.method, rank.interval.replicates) == (BY_SUBJECT, 20)
        for point, other in zip(
            gallery.search.tpir_at_fpir, base_gallery.search.tpir_at_fpir, strict=True
        ):
            one = found[f"TPIR, {gallery.name}", point.fpir]
            if point.tpir is None or other.tpir is None:
                assert one.difference is None
                assert one.interval is None
                assert one.reason is not None
            else:
                assert one.difference == point.tpir - other.tpir
                assert one.interval is not None
    # The same network twice: no difference in any replicate, as both are drawn alike.
    itself = compare((base, base_searched), (base, base_searched))
    limits = {one.interval.interval95 for one in itself if one.interval is not None}
    assert limits - {None} == {(0.0, 0.0)}


def test_equal_faces_are_embedded_once_and_count_each(golden: OpenIjb, embedded: Embedded) -> None:
    rows = np.arange(len(golden.lists.faces.images))
    rows[5] = 0  # face 5 is face 0
    plain = embedded.embeddings.copy()
    plain[5] = plain[0]
    one_mode = SETTINGS.model_copy(update={"modes": ["N1D1F1"]})
    lists = replace(golden.lists, galleries={})
    whole = replace(golden, settings=one_mode, lists=lists)
    expected = judge_ijb(whole, "m", Embedded(plain, True, 0.0), SUITE)[0][0]
    unique = np.delete(np.arange(len(rows)), 5)
    fewer_rows = np.searchsorted(unique, rows)
    images = ImageSet(golden.images.source, unique, fewer_rows, "cd")
    fewer = Embedded(embedded.embeddings[unique], True, 0.0)
    found = judge_ijb(replace(whole, images=images), "m", fewer, SUITE)[0][0]
    assert found.verification == expected.verification
    assert found.counts == dataclasses.replace(expected.counts, images=len(unique))


def test_from_image_files(tmp_path: Path) -> None:
    (tmp_path / "meta").mkdir()
    (tmp_path / "loose_crop").mkdir()
    landmarks: Landmarks = read_landmarks(GOLDEN / "meta" / "ijbc_name_5pts_score.txt")
    lines = (GOLDEN / "meta" / "ijbc_name_5pts_score.txt").read_text().splitlines()[:8]
    faces, points = [], []
    for number, line in enumerate(lines):
        name = landmarks.images[number]
        colours = np.random.default_rng(number // 2).integers(0, 256, (2, 2, 3), dtype=np.uint8)
        Image.fromarray(colours).resize((130, 130)).save(tmp_path / "loose_crop" / name)
        faces.append(f"{name} {number} {number}")
        points.append(line)
    (tmp_path / "meta" / "ijbc_face_tid_mid.txt").write_text("\n".join(faces))
    (tmp_path / "meta" / "ijbc_name_5pts_score.txt").write_text("\n".join(points))
    pairs = [f"{a} {b} {int(a // 2 == b // 2)}" for a in range(8) for b in range(a + 1, 8)]
    (tmp_path / "meta" / "ijbc_template_pair_label.txt").write_text("\n".join(pairs))
    item = open_ijb("made", SETTINGS, tmp_path)
    assert len(item.images.unique) == 8
    assert [Path(file.path).name for file in item.files][-1] == "loose_crop"
    (result, _), _ = judge_ijb(item, "m", embedder()(model(), item.images), SUITE)
    assert result.verification is not None
    assert result.verification.auc > 0.9
    assert result.settings["alignment"].startswith("published")
    (tmp_path / "loose_crop" / landmarks.images[0]).unlink()
    with pytest.raises(ValueError, match=landmarks.images[0]):
        open_ijb("made", SETTINGS, tmp_path)
