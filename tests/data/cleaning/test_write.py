"""What the labels of cleaned records are called."""

import numpy as np

from data.cleaning.decide import Plan
from data.cleaning.write import new_names
from data.tools.class_names import ClassName


def plan(*origins: tuple[int, bool]) -> Plan:
    """Return a plan whose labels are named after old ones, or are but halves of them."""
    named_after = np.array([label for label, _ in origins], np.int64)
    is_half = np.array([half for _, half in origins], np.bool_)
    return Plan(np.empty(0, np.int64), [], len(origins), named_after, is_half)


def test_a_label_keeps_its_name_and_a_half_gets_one_of_its_own() -> None:
    names: list[ClassName] = [("a", name) for name in ("Ann", "Ann 2", "Bob", "Cem")]
    found = new_names(names, plan((0, False), (1, False), (3, False), (0, True), (2, True)))
    assert found == ["Ann", "Ann 2", "Cem", "Ann 3", "Bob 2"]


def test_names_of_several_datasets_differ_and_labels_without_one_get_one() -> None:
    names: list[ClassName] = [("x/a", "Ann"), ("x/b", 0), ("x/b", 7), ("x/c", "Ann")]
    every = [(label, False) for label in range(4)]
    assert new_names(names, plan(*every, (2, True))) == ["Ann", "b 0", "b 7", "Ann 2", "b 7 2"]


def test_without_names_there_are_none() -> None:
    assert new_names([("a", 0), ("a", 1)], plan((0, False), (1, False))) is None
