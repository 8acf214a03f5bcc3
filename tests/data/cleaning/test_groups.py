import numpy as np

from data.cleaning.groups import WEIGHT, Groups, whiten
from tests.data.cleaning.vectors import SIZE, People


def posed() -> tuple[People, Groups]:
    """Fifty people of eight images each, which differ along one direction more than in others."""
    person = np.repeat(np.arange(50), 8)
    people = People(person, noise=0.5)
    pose = 3 * np.random.default_rng(3).standard_normal(len(person)) / np.sqrt(SIZE)
    people.unit[:, 0] += pose.astype(np.float32)
    people.unit /= np.linalg.norm(people.unit, axis=1, keepdims=True)
    return people, Groups(person, 50)


def test_equals_the_dense_covariance() -> None:
    people, groups = posed()
    differences = people.unit - people.unit.reshape(50, 8, SIZE).mean(axis=1).repeat(8, axis=0)
    covariance = differences.T @ differences
    weight = WEIGHT * 350 / (350 + SIZE)
    mixed = weight * SIZE * covariance / np.trace(covariance) + (1 - weight) * np.eye(SIZE)
    # Any square root of the inverse gives the same cosines.
    expected = people.unit @ np.linalg.cholesky(np.linalg.inv(mixed))
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    found = whiten(groups, people, SIZE, -1.0).take(np.arange(len(people)))
    np.testing.assert_allclose(found @ found.T, expected @ expected.T, atol=1e-5)


def test_one_wrong_label_has_no_part_in_the_covariance() -> None:
    people, groups = posed()
    rows = np.arange(len(people))
    before = whiten(groups, people, SIZE, 0.2).take(rows)
    stranger = np.zeros(SIZE, np.float32)
    stranger[1] = 1
    people.unit[[0, 9]] = stranger, -stranger
    identity = groups.identity.copy()
    identity[[0, 9]] = -1
    left_out = whiten(Groups(identity, 50), people, SIZE, 0.2).take(rows)
    after = whiten(groups, people, SIZE, 0.2).take(rows)
    np.testing.assert_allclose(after, left_out, atol=1e-6)
    assert not np.allclose(after, before, atol=1e-6)


def test_too_few_images_change_no_cosine() -> None:
    people = People(np.repeat(np.arange(20), 2))
    found = whiten(Groups(np.repeat(np.arange(20), 2), 20), people, SIZE, -1.0)
    np.testing.assert_allclose(found.take(np.arange(40)), people.unit, atol=1e-6)
