"""All kinds of faults among made-up people whom embeddings tell apart well."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from data.cleaning.decide import Plan, decide
from data.cleaning.examine import Examination, Settings
from data.cleaning.findings import KINDS, Findings
from data.cleaning.groups import Groups, whiten
from data.cleaning.leaks import KnownPeople
from tests.data.cleaning.vectors import SIZE, People

PEOPLE, IMAGES = 60, 10
STRANGERS = (130, 131)
SWAPPED = {3: 41, 125: 7, 333: 2}  # image: its wrong label
SPLIT, NEW = 20, 60  # a label half of whose images get the new one
MERGED = (30, 31)  # the second one's images get the label of the first
COPIES = {455: 450, 262: 77}  # image: an earlier one that is the same; the second is mislabelled


def planted() -> tuple[People, NDArray[np.int64]]:
    person = np.repeat(np.arange(PEOPLE), IMAGES)
    labels = person.copy()
    for image in STRANGERS:
        person[image] = PEOPLE + image
    vectors = People(person)
    for copy, original in COPIES.items():
        vectors.unit[copy], vectors.hashes[copy] = vectors.unit[original], vectors.hashes[original]
        vectors.unit[copy, 0] += 0.2
        vectors.unit[copy] /= np.linalg.norm(vectors.unit[copy])
        vectors.hashes[copy] ^= np.uint64(5)
    for image, label in SWAPPED.items():
        labels[image] = label
    labels[SPLIT * IMAGES + 5 : SPLIT * IMAGES + 10] = NEW
    labels[labels == MERGED[1]] = MERGED[0]
    labels[labels > MERGED[1]] -= 1
    return vectors, labels


@pytest.fixture(scope="module")
def examined() -> tuple[Findings, NDArray[np.int64], People]:
    vectors, labels = planted()
    # The first person of the set is that of label 10, the second one nobody's.
    known = People(np.array([0, 1, 2, 3]), seed=9).unit
    known[0] = vectors.unit[100:103].mean(axis=0)
    known[0] /= np.linalg.norm(known[0])
    people = KnownPeople("lfw", known, np.array([4, 0, 2, 6]))
    examination = Examination(
        vectors, labels, int(labels.max()) + 1, torch.device("cpu"), Settings()
    )
    return examination.run([people]), examination.labels, vectors


def test_each_fault_is_found_and_nothing_else(
    examined: tuple[Findings, NDArray[np.int64], People],
) -> None:
    found, labels, _ = examined
    wrong = found.wrong
    expected = {*SWAPPED, *STRANGERS, 262}
    assert set(wrong.images.tolist()) == expected
    near = dict(zip(wrong.images.tolist(), wrong.known.tolist(), strict=True))
    assert all(near[image] for image in SWAPPED)
    assert not any(near[image] for image in STRANGERS)
    homes = dict(zip(wrong.images.tolist(), wrong.labels.tolist(), strict=True))
    for image in SWAPPED:
        other = image // IMAGES * IMAGES + (image + 1) % IMAGES
        assert homes[image] == labels[other]
    assert [set(pair) for pair in found.same.labels.tolist()] == [{SPLIT, NEW - 1}]
    assert found.merged.labels.tolist() == [MERGED[0]]
    (second,) = found.merged.second
    assert set(second.tolist()) in (set(range(300, 310)), set(range(310, 320)))
    copies = zip(found.duplicates.images.tolist(), found.duplicates.first.tolist(), strict=True)
    assert dict(copies) == COPIES
    (leak,) = found.leaks
    assert (leak.labels.tolist(), leak.images.tolist()) == ([10], [4])


def test_people_are_compared_in_whitened_space_and_copies_as_they_are(
    examined: tuple[Findings, NDArray[np.int64], People],
) -> None:
    found, labels, vectors = examined
    copies = found.duplicates
    raw = (vectors.unit[copies.images] * vectors.unit[copies.first]).sum(axis=1)
    np.testing.assert_allclose(copies.cosines, raw, atol=1e-6)
    known = vectors.unit[100:103].mean(axis=0)
    centre = vectors.unit[100:110].mean(axis=0)
    whitened = whiten(Groups(labels, int(labels.max()) + 1), vectors, SIZE, 0.4)
    one, rows = whitened.apply(known[None])[0], whitened.take(np.arange(100, 110))
    expected = one @ rows.mean(axis=0) / np.linalg.norm(rows.mean(axis=0))
    unmoved = known @ centre / np.linalg.norm(known) / np.linalg.norm(centre)
    assert abs(found.leaks[0].cosines[0] - expected) < 0.1 * abs(expected - unmoved)


def plan(examined: tuple[Findings, NDArray[np.int64], People], *fixes: str) -> Plan:
    found, labels, _ = examined
    return decide(labels, int(labels.max()) + 1, found, fixes)


def test_only_what_is_asked_for_is_done(
    examined: tuple[Findings, NDArray[np.int64], People],
) -> None:
    labels = examined[1]
    assert np.array_equal(plan(examined).labels, labels)
    removed = np.flatnonzero(plan(examined, "outlier").labels < 0)
    assert set(STRANGERS) <= set(removed.tolist()) <= {*STRANGERS, 262}
    assert plan(examined, "leaked").num_labels == labels.max()
    assert np.flatnonzero(plan(examined, "leaked").labels < 0).tolist() == [*range(100, 110)]
    joined = plan(examined, "same").labels
    assert joined[SPLIT * IMAGES] == joined[SPLIT * IMAGES + 7]


def test_all_fixes_give_each_person_one_label(
    examined: tuple[Findings, NDArray[np.int64], People],
) -> None:
    found = plan(examined, *KINDS)
    person = np.repeat(np.arange(PEOPLE), IMAGES)
    left = found.labels >= 0
    assert left.sum() == 600 - 2 - 10 - 2  # strangers, the leaked label, copies
    pairs = set(zip(person[left].tolist(), found.labels[left].tolist(), strict=True))
    assert len(pairs) == found.num_labels == PEOPLE - 1
    assert found.reasons[130] == "outlier"
    assert found.reasons[3] == "swapped"
    assert found.reasons[262] == "duplicates"  # the copy whose label is in doubt


def examine(
    person: NDArray[np.int64], labels: NDArray[np.int64], *known: int
) -> tuple[Findings, NDArray[np.int64], People]:
    """What is found of people, the `known` ones of whom are in a verification set."""
    vectors = People(person)
    sets = []
    if known:
        unit = np.stack([vectors.unit[person == one][:3].mean(axis=0) for one in known])
        unit /= np.linalg.norm(unit, axis=1, keepdims=True)
        sets = [KnownPeople("lfw", unit, np.arange(len(known)))]
    examination = Examination(
        vectors, labels, int(labels.max()) + 1, torch.device("cpu"), Settings()
    )
    return examination.run(sets), labels, vectors


def test_a_leaked_person_leaves_with_each_of_his_labels() -> None:
    person = np.repeat(np.arange(PEOPLE), IMAGES)
    labels = person.copy()
    labels[SPLIT * IMAGES + 5 : SPLIT * IMAGES + 10] = NEW
    found = examine(person, labels, SPLIT)
    (leak,) = found[0].leaks
    assert set(leak.labels.tolist()) == {SPLIT, NEW}
    for fixes in (("leaked",), ("leaked", "same"), KINDS):
        gone = np.flatnonzero(plan(found, *fixes).labels < 0)
        assert gone.tolist() == list(range(SPLIT * IMAGES, (SPLIT + 1) * IMAGES))


@pytest.mark.parametrize("hidden", [4, 6])
def test_half_of_a_label_joins_its_person_and_the_other_half_stays(hidden: int) -> None:
    # Of person 60, `hidden` images are under the label of person 0, the others under his own.
    person = np.repeat(np.arange(PEOPLE + 1), IMAGES)
    labels = person.copy()
    labels[PEOPLE * IMAGES : PEOPLE * IMAGES + hidden] = 0
    found = examine(person, labels)
    assert found[0].merged.labels.tolist() == [0]
    both = plan(found, "same", "merged").labels
    assert len(set(zip(person.tolist(), both.tolist(), strict=True))) == PEOPLE + 1
    assert np.array_equal(plan(found, "same").labels, labels)  # half is not joined with all


def test_an_unknown_fix_is_refused(examined: tuple[Findings, NDArray[np.int64], People]) -> None:
    with pytest.raises(ValueError, match="blur"):
        plan(examined, "blur")


def test_what_is_too_small_is_not_judged() -> None:
    # Two images per label: no third one says which of two that differ is wrong.
    vectors = People(np.repeat(np.arange(30), 2))
    labels = np.repeat(np.arange(30), 2)
    labels[0], labels[59] = 29, 0
    vectors.good[5] = False
    examination = Examination(vectors, labels, 30, torch.device("cpu"), Settings())
    found = examination.run()
    assert examination.labels[5] == -1
    assert not len(found.wrong.images)
    assert found.figures["not_judged"] == 59
    assert found.cuts["merged"] is None


def test_each_new_label_is_named_after_the_one_that_stays(
    examined: tuple[Findings, NDArray[np.int64], People],
) -> None:
    one = plan(examined, *KINDS)
    gone = {NEW - 1, 10}  # joined to SPLIT, and leaked
    assert one.named_after.tolist() == [*sorted({*range(NEW)} - gone), MERGED[0]]
    assert np.flatnonzero(one.is_half).tolist() == [one.num_labels - 1]


def test_a_half_has_the_name_of_the_label_that_is_joined_to_it() -> None:
    person = np.repeat(np.arange(PEOPLE), IMAGES)
    labels = person.copy()
    labels[person == 31] = 30  # divided again
    small = np.flatnonzero(person == 31)[6:]  # the same person, in fewer images
    labels[small] = PEOPLE
    labels = np.unique(labels, return_inverse=True)[1]
    found, _, _ = examine(person, labels)
    new = decide(labels, int(labels.max()) + 1, found, KINDS)
    (half,) = found.merged.second
    assert set(half.tolist()) <= set(np.flatnonzero(person == 31).tolist())
    assert new.labels[half[0]] == new.labels[small[0]]
    assert new.named_after[new.labels[half[0]]] == labels[small[0]]
    assert not new.is_half.any()
