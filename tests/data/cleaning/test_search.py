import numpy as np
import pytest
import torch

from data.cleaning import search
from data.cleaning.search import nearest_centres, nearest_other
from tests.data.cleaning.vectors import People


def test_equals_the_dense_product(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "CENTRES", 7)  # blocks that do not divide 30
    unit, centres = People(np.arange(23)).unit, People(np.arange(30), seed=1).unit
    own = np.arange(23) % 5 - 1  # -1 for some
    parts = [(unit[:10], own[:10]), (unit[10:], own[10:])]
    cosines, numbers = nearest_other(parts, centres, torch.device("cpu"), 3)
    dense = unit @ centres.T
    dense[np.flatnonzero(own >= 0), own[own >= 0]] = -9
    expected = np.argsort(-dense, axis=1)[:, :3]
    assert np.array_equal(numbers, expected)
    np.testing.assert_allclose(cosines, np.take_along_axis(dense, expected, 1), atol=1e-6)


def test_says_where_there_is_no_other() -> None:
    unit = People(np.arange(2)).unit
    cosines, numbers = nearest_other([(unit, np.arange(2))], unit, torch.device("cpu"), 3)
    assert numbers[:, 0].tolist() == [1, 0]
    assert (numbers[:, 2] == -1).all() or (cosines[:, 1] <= -1).all()


def test_the_level_with_one_more_centre_is_known_before() -> None:
    unit, centres = People(np.arange(9)).unit, People(np.arange(30), seed=1).unit
    before = nearest_centres(unit, torch.device("cpu"), centres)
    for row, one in enumerate(unit):
        more = np.concatenate([centres, one[None]])  # nearer than all others
        after = nearest_centres(one[None], torch.device("cpu"), more)
        assert after.numbers.tolist() == [30]
        np.testing.assert_allclose(before.level_if_nearer[row], after.level[0], atol=1e-6)
    assert (before.level_if_nearer > before.level).all()
