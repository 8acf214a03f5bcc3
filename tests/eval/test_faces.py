from dataclasses import dataclass

import numpy as np

from eval.faces import MOST, sample_faces


@dataclass(frozen=True)
class Numbers:
    """Images that hold their number, modulo 256."""

    def encoded(self, index: int) -> bytes:
        return bytes([index % 256])

    def describe(self, index: int) -> str:
        return str(index)


def test_faces_of_one_person_have_one_number() -> None:
    # Pairs of images; rows are unique images: 0 and 1 are one person, 1 and 2 too, 3 and 4 are
    # another; 5 and 6 are two people.
    rows = np.array([3, 4, 0, 1, 5, 6, 1, 2])
    same = np.array([True, True, False, True])
    unique = np.array([2, 3, 7, 0, 1, 4, 5])
    embeddings = np.arange(14.0).reshape(7, 2)
    faces = sample_faces(Numbers(), embeddings, same, rows, unique)
    shown = [3, 4, 0, 1, 2]
    assert faces.people == [0, 0, 1, 1, 1]
    np.testing.assert_array_equal(faces.embeddings, embeddings[shown])
    assert [image[0] for image in faces.images] == unique[shown].tolist()


def test_there_are_not_too_many() -> None:
    count = 4 * MOST
    rows = np.arange(count)
    same = np.ones(count // 2, dtype=bool)
    faces = sample_faces(Numbers(), np.zeros((count, 1)), same, rows, rows)
    assert len(faces.images) == len(faces.people) == len(faces.embeddings) == MOST
