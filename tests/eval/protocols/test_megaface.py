import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from eval.protocols.megaface import apply_noise, identify
from eval.protocols.megaface_files import (
    noisy_distractors,
    noisy_probes,
    read_noise_list,
    read_photo_list,
    read_probe_list,
)
from eval.protocols.rates import FARS, tar_at_far
from scripts.protocols.compare import differences, plain

FOLDER = Path(__file__).parents[2] / "fixtures" / "evaluation" / "megaface"
EXPECTED = json.loads((FOLDER / "expected.json").read_text(encoding="utf-8"))


def unit(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    units: NDArray[np.float64] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return units


@pytest.mark.parametrize("noise", ["as_listed", "noise_dropped", "noise_replaced_as_published"])
@pytest.mark.parametrize("size", EXPECTED["sizes"])
def test_the_reference_figures_are_reproduced(size: str, noise: Any) -> None:
    expected = EXPECTED["sizes"][size][noise]
    features = np.load(FOLDER / "features.npz")
    paths, people = read_probe_list(FOLDER / "facescrub_features_list.json")
    noisy = noisy_probes(paths, read_noise_list(FOLDER / "facescrub_noises.txt"))
    assert sorted(Path(p).name for p, bad in zip(paths, noisy, strict=True) if bad) == sorted(
        EXPECTED["noisy_probes"]
    )
    rule = noise.removeprefix("noise_")
    listed = read_photo_list(FOLDER / f"megaface_features_list.json_{size}_1")
    if rule != "as_listed":
        bad = noisy_distractors(listed, read_noise_list(FOLDER / "megaface_noises.txt"))
        listed = [path for path, is_noise in zip(listed, bad, strict=True) if not is_noise]
    row_of = {name: row for row, name in enumerate(features["distractor_names"].tolist())}
    distractors = features["distractor"][[row_of[path] for path in listed]]
    probe, names = apply_noise(features["probe"], people, noisy, rule)
    blocks = [distractors[:300], distractors[300:]]
    result = identify(probe, names, blocks, len(distractors), fars=FARS)
    assert result.rank == {int(rank): value for rank, value in expected["rank"].items()}
    assert differences(expected["tar_at_far"], result.tar_at_far, size) == []
    for field in ("probes", "people", "distractors", "trials"):
        assert getattr(result, field) == expected[field]


def test_ranks_equal_those_of_counting_trial_by_trial() -> None:
    rng = np.random.default_rng(3)
    probe, distractors = rng.normal(size=(40, 8)), rng.normal(size=(5000, 8))
    people = rng.choice(list("abcdef"), 40).tolist()
    scores, against = unit(probe) @ unit(probe).T, unit(probe) @ unit(distractors).T
    found = [
        1 + np.count_nonzero(against[i] >= scores[i, j])
        for i in range(40)
        for j in range(40)
        if i != j and people[i] == people[j]
    ]
    ranks = (1, 3, 100, 1000)
    result = identify(probe, people, np.array_split(distractors, 3), 5000, ranks=ranks)
    assert result.trials == len(found)
    assert result.rank == {k: np.mean(np.array(found) <= k) for k in ranks}


def test_verification_keeps_the_scores_that_decide_and_no_others() -> None:
    rng = np.random.default_rng(6)
    probe, distractors = rng.normal(size=(20, 8)), rng.normal(size=(9000, 8))
    people = ["a", "b"] * 10
    scores = unit(probe) @ unit(probe).T
    genuine = [scores[i, j] for i in range(20) for j in range(i) if people[i] == people[j]]
    impostor = (unit(probe) @ unit(distractors).T).ravel()
    for fars in ((1e-5, 1e-3), (1e-2,), (0.3,), (1.0,)):
        result = identify(probe, people, np.array_split(distractors, 7), 9000, fars=fars)
        expected = [tar_at_far(np.array(genuine), impostor, far) for far in fars]
        assert differences(plain(expected), result.tar_at_far, "") == []


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_copy_of_the_mate_among_the_distractors_ties_and_so_wins(dtype: Any) -> None:
    rng = np.random.default_rng(8)
    probe = np.repeat(rng.normal(size=(33, 67)), 2, axis=0) + rng.normal(size=(66, 67)) / 9
    probe = probe.astype(dtype)
    people = [str(row // 2) for row in range(66)]
    rest = rng.normal(size=(2981, 67)).astype(dtype)
    for place in (0, 1, 2047, 2048, 2980):  # at the start and end of blocks of any size
        distractors = np.insert(rest, place, probe, axis=0)
        # Photo i itself stands before the copy of its mate, so none has rank 2 or better.
        assert identify(probe, people, [distractors], 3047, ranks=(2, 3)).rank == {2: 0.0, 3: 1.0}


def test_a_noisy_photo_is_replaced_by_the_centre_of_the_others() -> None:
    probe = np.array([[3.0, 0.0], [0.0, 1.0], [7.0, 1.0]])
    noisy = np.array([False, False, True])
    replaced, people = apply_noise(probe, ["a", "a", "a"], noisy, "replaced_as_published")
    assert replaced[2] == pytest.approx([0.5**0.5, 0.5**0.5])
    assert people == ["a", "a", "a"]
    with pytest.raises(ValueError, match=r"1 .* b "):
        apply_noise(probe, ["a", "a", "b"], noisy, "replaced_as_published")
    with pytest.raises(ValueError, match="'ignored'"):
        apply_noise(probe, ["a", "a", "b"], noisy, "ignored")


@pytest.mark.parametrize(
    ("change", "values"),
    [
        ({"people": ["a"]}, "2 .* 1 "),
        ({"ranks": (0, 1)}, r"\[0, 1\]"),
        ({"distractors": []}, "0 distractors: .* 1,"),
        ({"distractor_count": 2}, "1 distractors: .* 2,"),
        ({"fars": (0.0,)}, "0.0"),
        ({"distractors": [np.ones((2, 5))]}, r"distractor .*\(2, 5\).* 3\]"),
        ({"distractors": [np.array([[1.0, 0, 0], [1, np.inf, 0]])]}, "1 of 2 distractor .* row 1"),
        ({"probe_nd": np.array([[np.nan, 0, 0], [1, 0, 0]])}, "1 of 2 probe .* row 0"),
    ],
)
def test_what_has_no_figure_is_refused(change: dict[str, Any], values: str) -> None:
    given: dict[str, Any] = {
        "probe_nd": np.eye(2, 3), "people": ["a", "a"], "distractors": [np.ones((1, 3))],
        "distractor_count": 1,
    }  # fmt: skip
    assert identify(**given).trials == 2
    with pytest.raises(ValueError, match=values):
        identify(**given | change)
