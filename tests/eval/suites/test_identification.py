"""Tests of `eval.suites.identification`: the golden figures, and the way from image files."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.io import savemat

from eval.protocols.bootstrap import BY_SUBJECT
from eval.protocols.megaface_files import (
    noisy_distractors,
    noisy_probes,
    read_noise_list,
    read_photo_list,
    read_probe_list,
)
from eval.protocols.tinyface import read_image_ids
from eval.suites.compare import compare
from eval.suites.identification import (
    OpenMegaFace,
    OpenTinyFace,
    judge_megaface,
    judge_tinyface,
    open_megaface,
    open_tinyface,
)
from eval.suites.images import Embedded, ImageList, ImageSet
from eval.suites.settings import MegaFaceSet, Suite, TinyFaceSet
from tests.eval.suites.made_sets import PEOPLE, embedder, model, photo, write_folder

GOLDEN = Path(__file__).parents[2] / "fixtures" / "evaluation"
SUITE = Suite(megaface={"m": MegaFaceSet(probes=Path("p"), probe_images=Path("i"),
              distractors=[Path("d")], distractor_images=Path("e"))})  # fmt: skip


def plain(features: np.ndarray) -> tuple[ImageSet, Embedded]:
    rows = np.arange(len(features))
    embedded = Embedded(features.astype(np.float32)[:, None], True, 0.0)
    return ImageSet(ImageList(Path(), []), rows, rows, "ab"), embedded


def test_golden_megaface() -> None:
    root = GOLDEN / "megaface"
    expected: dict[str, Any] = json.loads((root / "expected.json").read_text())["sizes"]
    photos, people = read_probe_list(root / "facescrub_features_list.json")
    content = np.load(root / "features.npz")
    names = content["distractor_names"].tolist()
    images, embedded = plain(np.concatenate([content["probe"], content["distractor"]]))
    sizes = list(expected)
    lists = []
    for size in sizes:
        listed = read_photo_list(root / f"megaface_features_list.json_{size}_1")
        lists.append(np.array([len(photos) + names.index(path) for path in listed]))
    noise = noisy_distractors(names, read_noise_list(root / "megaface_noises.txt"))
    settings = SUITE.megaface["m"].model_copy(
        update={"noise": ["as_listed", "dropped", "replaced_as_published"]}
    )
    item = OpenMegaFace(
        "golden",
        settings,
        images,
        people,
        noisy_probes(photos, read_noise_list(root / "facescrub_noises.txt")),
        tuple(lists),
        np.concatenate([np.zeros(len(photos), np.bool_), noise]),
        (),
        (),
    )
    result, searched = judge_megaface(item, "m", embedded, SUITE)
    for drawn, one in zip(searched.drawn, result.megaface, strict=True):
        assert drawn.value == one.figures.rank[1]
        assert f"{one.figures.distractors:,} distractors, {one.noise}" in drawn.figure
    for same in compare((result, searched), (result, searched)):
        assert same.interval is not None
        assert (same.difference, same.interval.interval95) == (0.0, (0.0, 0.0))
        assert same.interval.replicates == SUITE.replicates
    assert len(result.megaface) == 3 * len(sizes)
    found = iter(result.megaface)
    for size in sizes:
        rules = {name.removeprefix("noise_"): one for name, one in expected[size].items()}
        for rule in settings.noise:
            one = next(found)
            assert one.noise == rule
            assert {str(k): v for k, v in one.figures.rank.items()} == rules[rule]["rank"]
            assert one.figures.distractors == rules[rule]["distractors"]


def test_golden_tinyface() -> None:
    root = GOLDEN / "tinyface"
    expected: dict[str, Any] = json.loads((root / "expected.json").read_text())
    content = np.load(root / "features.npz")
    images, embedded = plain(
        np.concatenate([content["probe"], content["gallery"], content["distractor"]])
    )
    item = OpenTinyFace(
        "golden",
        images,
        read_image_ids(root / "probe_img_ID_pairs.mat", "probe")[1],
        read_image_ids(root / "gallery_match_img_ID_pairs.mat", "gallery")[1],
        (),
    )
    result, searched = judge_tinyface(item, "m", embedded, SUITE)
    found = result.tinyface
    assert found is not None
    noise = np.random.default_rng(0).normal(0, 0.05, embedded.embeddings.shape)
    worse = replace(embedded, embeddings=embedded.embeddings + noise.astype(np.float32))
    other = judge_tinyface(item, "worse", worse, SUITE)
    assert other[0].tinyface is not None
    rank, precision = compare(other, (result, searched))
    assert (rank.figure, rank.far) == ("rank-1", None)
    assert rank.difference == other[0].tinyface.rank[1] - found.rank[1]
    assert precision.difference == other[0].tinyface.map - found.map
    for one in (rank, precision):
        assert one.interval is not None
        assert (one.interval.method, one.interval.replicates) == (BY_SUBJECT, SUITE.replicates)
        assert one.interval.interval95 is not None
    for one in compare((result, searched), (result, searched)):
        assert one.interval is not None
        assert one.interval.interval95 == (0.0, 0.0)
    assert {str(k): v for k, v in found.rank.items()} == expected["rank"]
    assert found.map == pytest.approx(expected["map"], abs=1e-6)
    assert found.probes_without_mate == expected["probes_without_mate"]


def test_megaface_from_image_files(tmp_path: Path) -> None:
    paths = write_folder(tmp_path / "faces")
    (tmp_path / "far").mkdir()
    others = [f"{number}.png" for number in range(20)]
    for number, name in enumerate(others):
        (tmp_path / "far" / name).write_bytes(photo(100 + number, 0))
    people = [path.partition("/")[0] for path in paths]
    (tmp_path / "probes.json").write_text(json.dumps({"path": paths, "id": people}))
    for size in (5, 20):
        (tmp_path / f"far_{size}").write_text(json.dumps({"path": others[:size]}))
    settings = MegaFaceSet(
        probes=Path("probes.json"), probe_images=Path("faces"), distractor_images=Path("far"),
        distractors=[Path("far_5"), Path("far_20")],
    )  # fmt: skip
    item = open_megaface("made", settings, tmp_path)
    result, _ = judge_megaface(item, "m", embedder()(model(), item.images), SUITE)
    assert result.counts.images == len(paths) + 20
    assert result.counts.subjects == PEOPLE
    assert [one.figures.distractors for one in result.megaface] == [5, 20]
    assert result.megaface[0].figures.rank[1] > 0.5
    (tmp_path / "far" / "3.png").unlink()
    with pytest.raises(ValueError, match=r"3\.png"):
        open_megaface("made", settings, tmp_path)


def cells(texts: list[str]) -> np.ndarray:
    found = np.empty((len(texts), 1), dtype=object)
    found[:, 0] = texts
    return found


def test_tinyface_from_image_files(tmp_path: Path) -> None:
    lists: dict[str, tuple[list[str], list[int]]] = {"probe": ([], []), "gallery": ([], [])}
    for kind, number in (("probe", 0), ("gallery", 1)):
        (tmp_path / kind).mkdir()
        for person in range(PEOPLE):
            name = f"{person}_{number}.png"
            (tmp_path / kind / name).write_bytes(photo(person, number))
            lists[kind][0].append(name)
            lists[kind][1].append(person)
        names, ids = lists[kind]
        savemat(
            tmp_path / f"{kind}.mat",
            {f"{kind}_set": cells(names), f"{kind}_ids": np.array(ids)[:, None]},
        )
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "notes.txt").write_text("no image")
    for number in range(5):
        (tmp_path / "far" / f"{number}.png").write_bytes(photo(100 + number, 0))
    settings = TinyFaceSet(
        probes=Path("probe.mat"), probe_images=Path("probe"), gallery=Path("gallery.mat"),
        gallery_images=Path("gallery"), distractor_images=Path("far"),
    )  # fmt: skip
    item = open_tinyface("made", settings, tmp_path)
    found = judge_tinyface(item, "m", embedder()(model(), item.images), SUITE)[0].tinyface
    assert found is not None
    assert (found.probes, found.gallery) == (PEOPLE, PEOPLE + 5)
    assert found.rank[1] > 0.5
    with pytest.raises(ValueError, match="nowhere"):
        open_tinyface(
            "made", settings.model_copy(update={"distractor_images": Path("nowhere")}), tmp_path
        )
