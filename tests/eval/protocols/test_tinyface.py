import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.io import savemat

from eval.protocols.tinyface import average_precision, identify, mate_positions, read_image_ids

FOLDER = Path(__file__).parents[2] / "fixtures" / "evaluation" / "tinyface"


def test_the_reference_figures_are_reproduced() -> None:
    expected = json.loads((FOLDER / "expected.json").read_text(encoding="utf-8"))
    features = np.load(FOLDER / "features.npz")
    names, ids = read_image_ids(FOLDER / "gallery_match_img_ID_pairs.mat", "gallery")
    probe_names, probe_ids = read_image_ids(FOLDER / "probe_img_ID_pairs.mat", "probe")
    assert (names[0], ids[0]) == (expected["first_gallery_image"], expected["first_gallery_id"])
    assert probe_names[0] == expected["first_probe_image"]
    gallery = np.concatenate([features["gallery"], features["distractor"]])
    result = identify(features["probe"], probe_ids, gallery, ids)
    assert result.rank == {int(rank): value for rank, value in expected["rank"].items()}
    assert result.map == pytest.approx(expected["map"], abs=1e-12)
    for field in ("probes", "mated_probes", "probes_without_mate", "gallery"):
        assert getattr(result, field) == expected[field]


def test_average_precision_is_the_sum_of_trapezoids_of_the_ranked_list() -> None:
    rng = np.random.default_rng(5)
    for mates in (1, 2, 7):
        scores = rng.integers(0, 12, 40) / 16  # many ties
        own = rng.choice(40, mates, replace=False)
        # Other people's images first among equals.
        order = sorted(range(40), key=lambda image: (-scores[image], image in own))
        area, recall, precision, hits = 0.0, 0.0, 1.0, 0
        for position, image in enumerate(order, start=1):
            hits += image in own
            area += (hits / mates - recall) * (precision + hits / position) / 2
            recall, precision = hits / mates, hits / position
        positions = mate_positions(scores, own)
        assert positions.tolist() == [n for n, image in enumerate(order, 1) if image in own]
        assert average_precision(positions) == pytest.approx(area, abs=1e-12)


@pytest.mark.parametrize(
    ("change", "values"),
    [
        ({"probe_ids": np.array([1, 2])}, "probe .*3, 4.* 2 ids"),
        ({"gallery_ids": np.arange(9)}, "gallery .*5, 4.* 9 ids"),
        ({"probe_pd": np.full((3, 4), np.nan)}, "3 of 3 probe .* row 0"),
        ({"probe_pd": np.ones((3, 6))}, " 6 .* 4 "),
        ({"probe_ids": np.array([7, 8, 9])}, "3 probes .* 5 "),
        ({"ranks": (0,)}, r"\[0\]"),
    ],
)
def test_what_has_no_figure_is_refused(change: dict[str, Any], values: str) -> None:
    given: dict[str, Any] = {
        "probe_pd": np.eye(3, 4), "probe_ids": np.arange(3),
        "gallery_gd": np.eye(5, 4) + 1, "gallery_ids": np.arange(5),
    }  # fmt: skip
    assert identify(**given).mated_probes == 3
    with pytest.raises(ValueError, match=values):
        identify(**given | change)


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "list.mat"
    with pytest.raises(ValueError, match=r"list\.mat"):
        read_image_ids(path, "probe")
    path.write_bytes(b"no matrix")
    with pytest.raises(ValueError, match=r"list\.mat"):
        read_image_ids(path, "probe")
    names = np.array([["a.jpg"], ["b.jpg"]], dtype=object)
    savemat(path, {"probe_set": names, "probe_ids": np.array([[1]])})
    with pytest.raises(ValueError, match="2 names in probe_set and 1 "):
        read_image_ids(path, "probe")
    with pytest.raises(ValueError, match="gallery_set"):
        read_image_ids(path, "gallery")
