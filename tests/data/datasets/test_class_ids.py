from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pytest

from data.datasets.class_ids import Label, Merge, Numbering, NumberingError, number_datasets


@dataclass(frozen=True)
class Source:
    """Labels, by name or by number."""

    labels: npt.NDArray[np.int32]
    names: Sequence[Label] | None = None


def numbers(*labels: int) -> Source:
    return Source(np.array(labels, np.int32))


def named(*labels: Label) -> Source:
    names = sorted(set(labels), key=str)
    return Source(np.array([names.index(label) for label in labels], np.int32), names)


def number(
    *datasets: Sequence[Source], merge: Merge = "offset", remap: bool = False
) -> tuple[list[list[int]], Numbering]:
    """Return the classes of each source's images, and the numbering."""
    named = [(f"set {position}", group) for position, group in enumerate(datasets)]
    numbering = number_datasets(named, merge=merge, remap=remap)
    sources = [source for group in datasets for source in group]
    bounds = np.cumsum([len(source.labels) for source in sources])[:-1]
    classes = np.split(numbering.classes(sources), bounds)
    return [of_source.tolist() for of_source in classes], numbering


@pytest.mark.parametrize(
    ("labels", "named"),
    [
        ([0, 1, 4, 7], "has 2, .* is 4 .* 4, from 0 to 7"),
        ([3, 2], "has 0, .* is 2 .* 2, from 2 to 3"),
    ],
)
def test_gaps_are_refused_with_the_first_one_named(labels: list[int], named: str) -> None:
    with pytest.raises(NumberingError, match=f"set 0: .*{named}.*remap_labels"):
        number([numbers(*labels)])


def test_gaps_are_closed_on_request() -> None:
    classes, numbering = number([numbers(7, 3, 7, 0)], remap=True)
    assert classes == [[2, 1, 2, 0]]
    assert numbering.num_classes == 3
    assert numbering.mapping == {0: 0, 3: 1, 7: 2}


@pytest.mark.parametrize("remap", [True, False])
@pytest.mark.parametrize("merge", ["offset", "by_name"])
def test_labels_without_gaps_are_used_as_they_are(merge: Merge, remap: bool) -> None:
    _, numbering = number([numbers(1, 0, 2, 1)], merge=merge, remap=remap)
    assert numbering == Numbering([None], 3, None)


def test_separate_datasets_are_numbered_one_after_another_and_counted() -> None:
    classes, numbering = number(
        [numbers(1, 0)], [numbers(0), numbers(2, 1)], [named("b", "a")], merge="separate"
    )
    assert classes == [[1, 0], [2], [4, 3], [6, 5]]
    assert numbering.separate == {"set 0": 2, "set 1": 3, "set 2": 2}
    _, numbering = number([numbers(1, 0)], merge="separate")
    assert numbering == Numbering([None], 2, None, {"set 0": 2})
    assert number([numbers(0)], [numbers(0)])[1].separate == {}


def test_sources_of_one_dataset_share_their_labels() -> None:
    classes, numbering = number([numbers(0, 4), numbers(3, 3), numbers(1, 2, 0)])
    assert classes == [[0, 4], [3, 3], [1, 2, 0]]
    assert (numbering.num_classes, numbering.mapping) == (5, None)
    assert numbering.lookups == [None, None, None]


def test_names_are_numbered_in_their_order_and_always_mapped() -> None:
    classes, numbering = number([named("bob", "ann", "bob")])
    assert classes == [[1, 0, 1]]
    assert numbering.mapping == {"ann": 0, "bob": 1}


def test_numbers_of_a_list_are_labels_like_those_of_records() -> None:
    assert number([named(1, 0, 1)])[1].mapping is None
    with pytest.raises(NumberingError, match=r"set 0: .* 0, .* 5 "):
        number([named(9, 5)])
    assert number([named(9, 5)], remap=True)[1].mapping == {5: 0, 9: 1}


def test_with_offset_gaps_are_those_of_each_dataset() -> None:
    classes, numbering = number([numbers(0, 1)], [named("x", "y")], [numbers(0), numbers(1)])
    assert classes == [[0, 1], [2, 3], [4], [5]]
    assert numbering.mapping == {
        "set 0": {0: 0, 1: 1},
        "set 1": {"x": 2, "y": 3},
        "set 2": {0: 4, 1: 5},
    }
    with pytest.raises(NumberingError, match=r"set 1: .* 0, "):
        number([numbers(0, 1)], [numbers(2)])
    classes, numbering = number([numbers(0, 1)], [numbers(8)], remap=True)
    assert classes == [[0, 1], [2]]
    assert numbering.mapping == {"set 0": {0: 0, 1: 1}, "set 1": {8: 2}}


def test_by_name_numbers_come_first_and_gaps_are_those_of_all_datasets() -> None:
    groups = [named("y", "x")], [numbers(0, 2)], [numbers(1, 2), named(0, 3)], [named("x", "a")]
    classes, numbering = number(*groups, merge="by_name")
    assert classes == [[6, 5], [0, 2], [1, 2], [0, 3], [5, 4]]
    assert numbering.num_classes == 7
    assert numbering.mapping == {
        "set 0": {"x": 5, "y": 6},
        "set 1": {0: 0, 2: 2},
        "set 2": {0: 0, 1: 1, 2: 2, 3: 3},
        "set 3": {"a": 4, "x": 5},
    }
    with pytest.raises(NumberingError, match=r"set 0, set 1: .* 1, .* 2 "):
        number([numbers(0, 2)], [numbers(2, 3)], merge="by_name")
    classes, numbering = number([numbers(0, 2)], [numbers(2, 3)], merge="by_name", remap=True)
    assert classes == [[0, 1], [1, 2]]
    assert numbering.mapping == {"set 0": {0: 0, 2: 1}, "set 1": {2: 1, 3: 2}}


def test_a_number_and_a_name_of_the_same_digits_are_two_classes() -> None:
    classes, _ = number([numbers(0, 1)], [named("1", "x")], merge="by_name")
    assert classes == [[0, 1], [2, 3]]


def test_every_class_of_a_lookup_has_an_image() -> None:
    _, numbering = number([numbers(2, 5)], remap=True)
    (lookup,) = numbering.lookups
    assert lookup is not None
    assert lookup.tolist() == [-1, -1, 0, -1, -1, 1]
    assert lookup.dtype == np.int32
