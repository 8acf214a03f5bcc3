import math
from typing import Any

import numpy as np
import pytest

from eval.protocols.fairness import Fairness, Spread, fairness, gini, spread

GROUPS = np.array(["east", "north", "west"])


def draw(seed: int, pairs: int = 900) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    same = rng.random(pairs) < 0.3
    first, second = GROUPS[rng.integers(0, 3, pairs)], GROUPS[rng.integers(0, 3, pairs)]
    scores = np.round(rng.normal(np.where(same, 0.5, 0.1), 0.2), 2)
    return {
        "scores_p": scores, "same_p": same, "group_a": first.tolist(),
        "group_b": np.where(same, first, second).tolist(), "far": 0.05,
    }  # fmt: skip


@pytest.mark.parametrize("seed", range(3))
def test_rates_are_those_of_counting_pair_by_pair(seed: int) -> None:
    given = draw(seed)
    result = fairness(**given)
    assert result.threshold is not None
    pairs = list(
        zip(given["scores_p"], given["same_p"], given["group_a"], given["group_b"], strict=True)
    )
    impostors = [score for score, same, *_ in pairs if not same]
    assert sum(score > result.threshold for score in impostors) <= 0.05 * len(impostors)
    for group in result.groups:
        own = [(s, same) for s, same, a, b in pairs if a == b == group.group]
        accepted = [same for score, same in own if score > result.threshold]
        genuine = sum(same for _, same in own)
        assert (group.genuine, group.impostor) == (genuine, len(own) - genuine)
        assert group.fnmr == (genuine - sum(accepted)) / genuine
        assert group.fmr == (len(accepted) - sum(accepted)) / (len(own) - genuine)
    for key, cell in result.fmr_matrix.items():
        between = [s for s, same, a, b in pairs if not same and sorted((a, b)) == key.split("|")]
        assert cell.pairs == len(between)
        assert cell.fmr == sum(score > result.threshold for score in between) / len(between)
    assert sum(cell.pairs for cell in result.fmr_matrix.values()) == len(impostors)


def test_the_weight_moves_the_summaries_from_one_rate_to_the_other() -> None:
    summaries = [fairness(**draw(1), alpha=alpha).summary for alpha in (0.0, 1.0)]
    assert summaries[0] is not None
    assert summaries[1] is not None
    assert summaries[0].garbe == summaries[0].fnmr.gini
    assert summaries[1].garbe == summaries[1].fmr.gini
    assert summaries[0].inequity == summaries[0].fnmr.max_over_min
    assert summaries[1].inequity == summaries[1].fmr.max_over_min


def test_a_spread_of_known_rates() -> None:
    found = spread([0.01, 0.04])
    assert found.max_over_min == pytest.approx(4)
    assert found.max_over_geomean == pytest.approx(2)
    assert found.gini == pytest.approx(0.6)
    assert spread([0.01, None]) == Spread()
    assert found.range == pytest.approx(0.03)
    assert Spread().range is None
    assert spread([0.0, 0.5]) == Spread(max=0.5, min=0.0, gini=1.0)
    assert gini(np.full(4, 0.25)) == 0
    assert gini(np.zeros(3)) == 0
    assert gini(np.array([0.25])) is None


def test_a_rate_that_the_pairs_cannot_support_has_a_reason() -> None:
    result = fairness(**draw(0) | {"far": 1e-5})
    assert result == Fairness(1e-5, None, result.reason, (), {}, None)
    assert "100000" in str(result.reason)


def test_all_pairs_are_accepted_at_a_rate_of_one() -> None:
    result = fairness(**draw(0) | {"far": 1.0})
    assert (result.threshold, result.reason) == (None, None)
    assert all(group.fmr == 1 and group.fnmr == 0 for group in result.groups)


@pytest.mark.parametrize(
    ("change", "values"),
    [
        ({"same_p": np.array([True])}, "900 scores, 1 labels, 900 and 900"),
        ({"group_b": [""] * 900}, "900 of 900"),
        ({"alpha": 1.5}, "1.5"),
        ({"far": 0.0}, "0.0"),
        ({"scores_p": np.full(900, math.nan)}, "900 of 900"),
        ({"group_b": ["east"] * 900}, "in two groups, pair .* east"),
    ],
)
def test_what_has_no_figure_is_refused(change: dict[str, Any], values: str) -> None:
    with pytest.raises(ValueError, match=values):
        fairness(**draw(0) | change)
