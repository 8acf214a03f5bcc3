from typing import Any

import numpy as np
import pytest

from eval.protocols.quality import error_discard, norm_qualities


@pytest.mark.parametrize("seed", range(3))
def test_the_curve_is_that_of_leaving_pairs_out(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores, qualities = rng.normal(0.4, 0.2, 150), rng.integers(0, 12, (150, 2)).astype(float)
    found = error_discard(scores, qualities, 0.3, areas=(0.25, 1.0), discards=(0.25,))
    worst = qualities.min(axis=1)
    steps = []
    for quality in sorted(set(worst)):
        kept = worst >= quality
        steps.append((1 - kept.mean(), (scores[kept] <= 0.3).mean()))
    steps.append((1.0, 0.0))
    np.testing.assert_allclose(np.column_stack([found.discard, found.error]), steps, atol=1e-12)
    # The area by a fine sum of the steps.
    middles = (np.arange(4_000_0) + 0.5) / 4_000_0
    heights = np.array(found.error)[np.searchsorted(found.discard, middles, side="right") - 1]
    assert found.partial_area[1.0] == pytest.approx(heights.mean(), abs=1e-4)
    assert found.partial_area[0.25] == pytest.approx(heights[:10_000].sum() / 40_000, abs=1e-4)
    assert found.error_at_discard[0.25] == heights[10_000]


def test_a_quality_that_knows_the_errors_has_nearly_the_best_area() -> None:
    rng = np.random.default_rng(0)
    scores = rng.normal(0.4, 0.2, 4000)
    errors = np.flatnonzero(scores <= 0.3)
    quality = np.full(4000, 9000.0)
    quality[errors] = np.arange(len(errors))
    found = error_discard(scores, np.column_stack([quality, quality + 1]), 0.3, areas=(0.1, 1.0))
    # The best curve is a straight line to no error, which the project's steps follow from above.
    first = found.error[0]
    assert found.best_area == {0.1: pytest.approx(first * 0.1 - 0.005), 1.0: first**2 / 2}
    assert found.best_area[1.0] < found.partial_area[1.0] < 1.5 * found.best_area[1.0]


def test_the_norms_of_both_images_are_qualities_of_a_pair() -> None:
    embeddings = np.array([[3, 4], [0, 1], [6, 8]], np.float32)
    found = norm_qualities(embeddings, np.array([0, 1, 2, 0]))
    assert found.tolist() == [[5, 1], [10, 5]]


@pytest.mark.parametrize(
    ("change", "values"),
    [
        ({"scores_p": []}, "0 scores"),
        ({"qualities_p2": [[1.0]]}, r"2 scores .*\(1, 1\)"),
        ({"scores_p": [0.5, np.inf]}, "1 of 2 scores"),
        ({"qualities_p2": [[1.0, np.nan], [np.nan, 1.0]]}, "2 of 4 qualities"),
        ({"threshold": np.nan}, "nan"),
        ({"areas": (1.5,)}, "1.5"),
        ({"discards": (-0.1,)}, "-0.1"),
    ],
)
def test_what_has_no_curve_is_refused(change: dict[str, Any], values: str) -> None:
    given: dict[str, Any] = {
        "scores_p": [0.1, 0.9], "qualities_p2": [[1.0, 2.0], [2.0, 3.0]], "threshold": 0.5,
    }  # fmt: skip
    assert error_discard(**given).error == (0.5, 0.0, 0.0)
    with pytest.raises(ValueError, match=values):
        error_discard(**given | change)
