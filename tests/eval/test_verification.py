import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from data.pairs.bin_file import balanced_order
from eval.protocol import fold_indices, squared_distances, ten_fold, unit
from eval.verification import VerificationError, verify_embeddings

Embeddings = NDArray[np.float32]
SAME = np.arange(200) % 2 == 0


def _faces(seed: int = 0) -> tuple[Embeddings, Embeddings]:
    """Embeddings of 200 pairs, and of their mirror images."""
    rng = np.random.default_rng(seed)
    people = rng.standard_normal((400, 16))
    people[1::2][SAME] = people[0::2][SAME]
    plain = people + 1.1 * rng.standard_normal((400, 16))
    flipped = people + 1.1 * rng.standard_normal((400, 16))
    return (5 * plain).astype(np.float32), (7 * flipped).astype(np.float32)


def _distances(embeddings: NDArray[np.float64]) -> NDArray[np.float64]:
    rows = unit(embeddings)
    return squared_distances(rows[0::2], rows[1::2])


def test_mirror_images_are_added_and_plain_figures_are_kept() -> None:
    plain, flipped = _faces()
    result, warnings = verify_embeddings("lfw", plain, flipped, SAME)
    both = ten_fold(_distances(plain.astype(float) + flipped), SAME)
    alone = ten_fold(_distances(plain.astype(float)), SAME)
    assert (result.accuracy, result.population_std) == (both.mean, both.std)
    assert (result.accuracy_no_flip, result.population_std_no_flip) == (alone.mean, alone.std)
    assert both.mean > alone.mean
    assert result.threshold_distance == both.mean_threshold
    assert warnings == ()
    assert result.flip is True


def test_the_cosine_threshold_is_the_distance_threshold() -> None:
    plain, flipped = _faces()
    result, _ = verify_embeddings("lfw", plain, flipped, SAME)
    rows = unit(plain.astype(float) + flipped)
    cosines = (rows[0::2] * rows[1::2]).sum(axis=1)
    by_distance = squared_distances(rows[0::2], rows[1::2]) < result.threshold_distance
    assert ((cosines > result.threshold_cosine) == by_distance).all()
    alone, _ = verify_embeddings("lfw", plain, None, SAME)
    assert result.threshold_cosine_no_flip == alone.threshold_cosine != result.threshold_cosine


def test_without_mirror_images_both_figures_are_the_plain_ones() -> None:
    plain, _ = _faces()
    result, _ = verify_embeddings("lfw", plain, None, SAME)
    assert result.flip is False
    assert result.accuracy == result.accuracy_no_flip
    assert result.population_std == result.population_std_no_flip
    assert result.threshold_cosine == result.threshold_cosine_no_flip


def test_repeated_images_count_in_each_of_their_pairs() -> None:
    plain, flipped = _faces()
    rows = np.arange(400)
    rows[5] = 2  # image 5 is image 2 again
    short = verify_embeddings("lfw", plain, flipped, SAME, rows)
    long = verify_embeddings("lfw", plain[rows], flipped[rows], SAME)
    assert short == long


def test_the_norm_is_that_of_the_output_of_the_network() -> None:
    plain, flipped = _faces()
    norms = [np.linalg.norm(rows.astype(float), axis=1).mean() for rows in (plain, flipped)]
    both = verify_embeddings("lfw", plain, flipped, SAME)[0].embedding_norm
    assert both == pytest.approx(sum(norms) / 2, rel=1e-12)
    alone = verify_embeddings("lfw", plain, None, SAME)[0].embedding_norm
    assert alone == pytest.approx(norms[0], rel=1e-12)


@pytest.mark.parametrize("noise", [0.0, 1e-3])
def test_collapsed_embeddings_are_named(noise: float) -> None:
    rng = np.random.default_rng(0)
    plain = np.ones((400, 16)) + noise * rng.standard_normal((400, 16))
    result, warnings = verify_embeddings("lfw", plain, plain, SAME)
    assert result.accuracy == 0.5
    (warning,) = warnings
    assert "collapsed" in warning


def test_zero_embeddings_are_named() -> None:
    plain, flipped = _faces()
    plain[3] = flipped[3] = 0
    (warning,) = verify_embeddings("lfw", plain, flipped, SAME)[1]
    assert "1 of 400 " in warning


def test_folds_of_one_kind_are_named_and_the_suggested_order_fixes_them() -> None:
    plain, flipped = _faces()
    order = np.argsort(~SAME, kind="stable")  # all positive pairs first
    images = np.stack((2 * order, 2 * order + 1), axis=1).ravel()
    _, warnings = verify_embeddings("mine", plain[images], flipped[images], SAME[order])
    (warning,) = warnings
    assert warning.startswith("10 of 10 folds")
    assert "scripts/make_pairs.py --unpack" in warning
    balanced = balanced_order(SAME[order])
    images = images.reshape(-1, 2)[balanced].ravel()
    same = SAME[order][balanced]
    assert verify_embeddings("mine", plain[images], flipped[images], same)[1] == ()
    for fold in fold_indices(200):
        assert 0 < same[fold].sum() < len(fold)


def test_the_smallest_set_is_verified() -> None:
    plain, flipped = _faces()
    result, _ = verify_embeddings("tiny", plain[:20], flipped[:20], SAME[:10])
    assert 0 <= result.accuracy <= 1


def _refused(plain: Any, flipped: Any, same: Any) -> str:
    with pytest.raises(VerificationError) as caught:
        verify_embeddings("mine", plain, flipped, same)
    assert str(caught.value).startswith("verification set mine: ")
    return str(caught.value)


def test_invalid_embeddings_and_labels_are_refused() -> None:
    plain, flipped = _faces()
    assert "5 positive and 4 negative" in _refused(plain[:18], flipped[:18], SAME[:9])
    assert "0 positive and 200 negative" in _refused(plain, flipped, np.zeros(200, bool))
    assert "200 positive and 0 negative" in _refused(plain, flipped, np.ones(200, bool))
    assert "(400, 16) and (400, 8)" in _refused(plain, flipped[:, :8], SAME)
    assert "399 images for 200 pairs" in _refused(plain[:-1], flipped[:-1], SAME)
    flipped[7, 3] = math.nan
    flipped[9, 1] = math.inf
    assert "2 of 400 embeddings" in _refused(plain, flipped, SAME)
