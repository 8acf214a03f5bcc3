"""Tests of `eval.suites.run` and `eval.suites.table`: a whole suite, on one rank and on two."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from eval.results import Run
from eval.suites.models import LoadedModel
from eval.suites.run import faces_to_show, open_suite, run_suite, with_folder
from eval.suites.settings import Suite, read_suite
from eval.suites.table import aligned, table
from recognition.distributed import current
from tests.distributed_harness import run_ranks
from tests.eval.suites.made_sets import corners, embedder, model, write_folder

RUN = Run("a command", "2025-01-31T00:00:00Z", "cpu", 1, {}, None, 20, 0, {})
SUITE = """
replicates: 20
fars: [0.1, 0.01, 0.0001]
pairs:
  all: {format: folder, file: faces}
  some: {format: folder, file: faces, different: 50}
megaface:
  far: {probes: probes.json, probe_images: faces, distractors: [far.json], distractor_images: far}
calibration: {chosen_on: all, far: 0.01}
"""


def dark(images: Tensor) -> Tensor:
    """Return what `corners` sees of images that are all dark."""
    return corners(images.clamp(max=-0.2))


def models() -> list[LoadedModel]:
    return [model(), replace(model("dark"), embed=dark)]


@pytest.fixture
def suite(tmp_path: Path) -> Suite:
    paths = write_folder(tmp_path / "faces")
    (tmp_path / "far").mkdir()
    for name in ("p00/0.png", "p01/1.png"):
        (tmp_path / "far" / name.replace("/", "_")).write_bytes(
            (tmp_path / "faces" / name).read_bytes()
        )
    people = [path.partition("/")[0] for path in paths]
    (tmp_path / "probes.json").write_text(json.dumps({"path": paths, "id": people}))
    (tmp_path / "far.json").write_text(json.dumps({"path": ["p00_0.png", "p01_1.png"]}))
    (tmp_path / "suite.yaml").write_text(SUITE)
    return with_folder(read_suite(tmp_path / "suite.yaml"), tmp_path)


def test_every_set_for_every_model(suite: Suite, tmp_path: Path) -> None:
    seen: list[int] = []
    embed = embedder(seen, tmp_path / "cache")
    results = run_suite(suite, open_suite(suite), models(), embed, RUN)
    assert results is not None
    order = [(one.set, one.model) for one in results.sets]
    assert order == [(name, one) for name in ("all", "some", "far") for one in ("corners", "dark")]
    # The second set has the images of the first, and copies count once.
    assert sum(seen) == 2 * 2 * 36
    for entry in results.models:
        assert entry.cost.forward_passes == 2 * 36
        assert entry.cost.cached_sets == ("some", "far")
        assert entry.embedding_size == 12
        assert entry.cost.peak_memory["cpu"] > 10**7
        assert entry.cost.images_per_second is not None
    assert {(one.set, one.model, one.baseline) for one in results.comparisons} == {
        ("all", "dark", "corners"),
        ("some", "dark", "corners"),
        ("far", "dark", "corners"),
    }
    assert [(one.model, one.applied_to) for one in results.calibration] == [
        ("corners", "some"),
        ("dark", "some"),
    ]
    again = run_suite(suite, open_suite(suite), models(), embed, RUN)
    assert again is not None
    assert again.sets == results.sets
    assert sum(seen) == 2 * 2 * 36
    assert again.models[0].cost.images_per_second is None


def test_the_faces_of_a_page_are_the_files(suite: Suite) -> None:
    sets = open_suite(suite)
    results = run_suite(suite, sets, models(), embedder(), RUN)
    assert results is not None
    images = faces_to_show(results, sets)
    assert {name for name, _ in images} == {"all", "some"}
    assert results.sets[0].hardest is not None
    assert results.sets[0].quality is not None
    for pair in results.sets[0].hardest.impostor:
        assert images["all", pair.first_image] == Path(pair.first).read_bytes()
        assert images["all", pair.second_image] == Path(pair.second).read_bytes()
    for face in results.sets[0].quality.worst:
        assert images["all", face.image_number] == Path(face.image).read_bytes()


def figures(suite: Suite) -> dict[str, Any] | None:
    embed = replace(embedder(), world=current())
    results = run_suite(suite, open_suite(suite), models(), embed, RUN)
    if results is None:
        return None
    values = results.to_json()
    values.pop("models")  # their cost is that of this run
    return values


@pytest.mark.slow
def test_any_number_of_ranks_gives_the_same_figures(suite: Suite) -> None:
    expected = figures(suite)
    assert expected is not None
    found, nothing = run_ranks(figures, 2, suite)
    assert nothing is None
    assert found == expected


def test_the_table_shows_the_conservative_reading_first(suite: Suite) -> None:
    results = run_suite(suite, open_suite(suite), models(), embedder(), RUN)
    assert results is not None
    text = table(results)
    header = next(line for line in text.splitlines() if "TAR" in line)
    assert header.index("TAR") < header.index("published TPR")
    verification = results.sets[0].verification
    assert verification is not None
    assert verification.rows[1].point.tar is not None
    lines = [" ".join(line.split()) for line in text.splitlines()]
    row = next(line for line in lines if line.startswith("all [corners] 0.01 "))
    assert f"{verification.rows[1].point.tar:.4f}" in row
    assert f"{verification.rows[1].published_tpr:.4f} at" in row
    none = next(line for line in lines if line.startswith("all [corners] 0.0001 "))
    assert "needs 10000 impostor pairs" in none
    for expected in ("far [dark]", "minus that of", "applied to", "as_listed"):
        assert expected in text
    assert max(map(len, text.splitlines())) < 160


def test_columns_are_aligned() -> None:
    assert aligned([["a", "bb", "c"], ["aaa", "b", ""]]) == "a    bb  c\naaa  b"
