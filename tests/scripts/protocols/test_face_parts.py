"""A figure of the parts about faces that differs, or that nothing computes, is a line."""

import json
import shutil
from pathlib import Path

import pytest

from scripts.check_protocols import PARTS
from scripts.protocols.compare import Json

GOLDEN = Path(__file__).parents[2] / "fixtures" / "evaluation"


@pytest.mark.parametrize(
    ("part", "keys", "value", "where"),
    [
        ("megaface", ["noisy_distractors"], 5, "megaface/noisy_distractors"),
        ("megaface", ["noisy_probes"], [], "megaface/noisy_probes"),
        ("megaface", ["feature_file_probe_0", 3], 0.5, "megaface/feature_file_probe_0[3]"),
        ("megaface", ["sizes", "10", "noise_dropped", "rank", "1"], 0.5, "/10/noise_dropped/rank"),
        ("megaface", ["sizes", "10", "as_listed", "new"], 1, "as_listed/new"),
        ("tinyface", ["map"], 0.5, "tinyface/map"),
        ("tinyface", ["first_gallery_image"], "b.jpg", "tinyface/first_gallery_image"),
        ("tinyface", ["new"], 1, "tinyface/new"),
        ("pairs", ["pairs.txt", 3, 2], 1, "pairs/pairs.txt[3][2]"),
        ("pairs", ["cfp_fp", 9, 5, 0], "b.jpg", "pairs/cfp_fp[9][5][0]"),
        ("pairs", ["ten_fold", "standard_error"], 0.5, "pairs/ten_fold/standard_error"),
        ("pairs", ["new"], 1, "pairs/new"),
        ("alignment", [0, "matrix", 0, 2], 0.5, "alignment/1.png/matrix"),
        ("alignment", [0, "mean_rgb", 1], 0.5, "alignment/1.png/mean_rgb"),
        ("alignment", [1, "aligned"], "1_aligned.png", "alignment/2.png/aligned"),
        ("alignment", [2, "new"], 1, "alignment/3.png"),
        ("scored_pairs", ["fairness", 0, "summary", "fdr_alpha_0.5"], 0.5, "fairness[0]/summary"),
        ("scored_pairs", ["edc", "best_area", "0.1"], 0.5, "scored_pairs/edc/best_area/0.1"),
    ],
)
def test_a_difference_is_a_line(
    tmp_path: Path, part: str, keys: list[str | int], value: Json, where: str
) -> None:
    shutil.copytree(GOLDEN / part, tmp_path / part)
    path = tmp_path / part / "expected.json"
    expected = json.loads(path.read_text(encoding="utf-8"))
    place = expected
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    path.write_text(json.dumps(expected), encoding="utf-8")
    (line,) = PARTS[part](tmp_path / part)
    assert where in line
