import numpy as np

from data.cleaning.identity import halves, own_cosines, robust_cosines
from tests.data.cleaning.vectors import People


def test_own_cosines_leave_the_image_out() -> None:
    unit = People(np.zeros(5, np.int64)).unit
    kept = np.array([True, True, False, True, True])
    found = own_cosines(unit, kept)
    for image in range(5):
        others = unit[[i for i in range(5) if kept[i] and i != image]].sum(axis=0)
        expected = unit[image] @ others / np.linalg.norm(others)
        assert abs(found[image] - expected) < 1e-6
    assert np.isnan(own_cosines(unit[:1], np.ones(1, np.bool_))).all()


def test_strangers_take_no_part_in_the_centre() -> None:
    unit = People(np.array([0] * 6 + [1, 2])).unit
    cosines, kept = robust_cosines(unit, 0.3)
    assert kept.tolist() == [True] * 6 + [False] * 2
    assert (cosines[:6] > 0.5).all()
    # Of three who differ nobody is right.
    assert robust_cosines(People(np.arange(3)).unit, 0.3)[1].all()


def test_halves_are_the_two_people() -> None:
    person = np.array([0, 1, 0, 1, 0, 1, 0])
    parts = halves(People(person).unit)
    assert len({(int(p), bool(h)) for p, h in zip(person, parts.second, strict=True)}) == 2
    assert parts.between < 0.4 < parts.within
