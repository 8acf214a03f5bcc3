import os
import pickle

import pytest

from data.datasets.texts import Texts

TEXTS = ["a/x.jpg", "", "Zoë/日本.png", os.fsdecode(b"latin-\xe9.jpg"), "x" * 300]


def test_texts_come_back_also_those_that_are_no_utf_8() -> None:
    texts = Texts(iter(TEXTS))
    assert len(texts) == 5
    assert list(texts) == TEXTS
    assert [texts[index] for index in range(5)] == TEXTS
    assert list(pickle.loads(pickle.dumps(texts))) == TEXTS


@pytest.mark.parametrize("index", [-1, 5])
def test_a_place_outside_is_refused(index: int) -> None:
    with pytest.raises(IndexError, match=f"text {index} of 5"):
        Texts(TEXTS)[index]


def test_many_texts_take_little_more_than_their_letters() -> None:
    assert len(pickle.dumps(Texts(f"{n:08}" for n in range(10_000)))) < 10_000 * 17
