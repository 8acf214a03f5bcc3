"""IJB 1:1 against its definition, written as loops, in every mode."""

from collections import defaultdict

import numpy as np
import pytest

from eval.protocols import ijb_verification
from eval.protocols.ijb_files import Faces, pairs_of
from eval.protocols.ijb_verification import (
    MODES,
    Mode,
    check_pairs,
    pair_scores,
    pool_templates,
    verify,
)
from eval.protocols.rates import Floats, ProtocolWarning

rng = np.random.default_rng(0)
N, D = 60, 8
FACES = Faces(
    tuple(f"{k}.jpg" for k in range(N)),
    rng.choice([40, 7, 2_000_000_000, 12], N),
    rng.integers(1, 5, N),
)
PLAIN, FLIPPED = rng.normal(size=(2, N, D)).astype(np.float32)
DETECTOR = rng.uniform(0.5, 1, N)


def by_definition(mode: Mode) -> dict[int, Floats]:
    """Mean over the faces of a medium, sum over the media, divided by the length."""
    media: dict[int, dict[int, list[Floats]]] = defaultdict(lambda: defaultdict(list))
    for k in range(N):
        feature = PLAIN[k].astype(np.float64)
        if mode.use_flip:
            feature = feature + FLIPPED[k]
        if not mode.keep_norm:
            feature = feature / np.linalg.norm(feature)
        if mode.use_detector:
            feature = feature * DETECTOR[k]
        media[FACES.template_n[k]][FACES.medium_n[k]].append(feature)
    sums = {t: sum(np.mean(one, axis=0) for one in of.values()) for t, of in media.items()}
    return {int(t): vector / np.linalg.norm(vector) for t, vector in sums.items()}


@pytest.mark.parametrize("mode", MODES, ids=str)
@pytest.mark.parametrize("chunk", [7, 1000])
def test_templates(mode: Mode, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ijb_verification, "FACE_CHUNK", chunk)
    templates = pool_templates(FACES, PLAIN, FLIPPED, DETECTOR, mode)
    expected = by_definition(mode)
    assert templates.id_t.tolist() == sorted(expected)
    assert templates.media == len(set(zip(FACES.template_n, FACES.medium_n, strict=True)))
    for template, vector in zip(templates.id_t, templates.vector_td, strict=True):
        assert vector == pytest.approx(expected[int(template)], abs=1e-14)


def test_names_of_modes() -> None:
    names = [str(mode) for mode in MODES]
    assert names == sorted(names)
    assert len(set(names)) == 8
    assert Mode.parse("N0D1F0") == Mode(keep_norm=False, use_detector=True, use_flip=False)
    with pytest.raises(ValueError, match=r"N2D0F0.*N1D1F1"):
        Mode.parse("N2D0F0")


def test_embeddings_that_are_not_needed_are_not_read() -> None:
    nothing = np.full_like(FLIPPED, np.nan)
    pool_templates(FACES, PLAIN, nothing, DETECTOR, Mode.parse("N1D1F0"))
    pool_templates(FACES, PLAIN, None, DETECTOR, Mode.parse("N1D1F0"))
    with pytest.raises(ValueError, match=r"N1D1F1.*none"):
        pool_templates(FACES, PLAIN, None, DETECTOR, Mode())
    with pytest.raises(ValueError, match=f"{N} of {N} faces.*0.jpg.*50 more"):
        pool_templates(FACES, PLAIN, nothing, DETECTOR, Mode())


@pytest.mark.parametrize("cut", ["plain", "detector"])
def test_arrays_of_other_lengths_are_refused(cut: str) -> None:
    plain, detector = PLAIN[: N - (cut == "plain")], DETECTOR[: N - (cut == "detector")]
    with pytest.raises(ValueError, match=rf"{len(plain)}, {D}.* {len(detector)} .* {N} "):
        pool_templates(FACES, plain, None, detector, Mode.parse("N1D1F0"))


def test_negative_weights_are_refused_where_they_count() -> None:
    detector = np.where(np.arange(N) == 3, -0.5, DETECTOR)
    pool_templates(FACES, PLAIN, None, detector, Mode.parse("N1D0F0"))
    with pytest.raises(ValueError, match=rf"1 of {N} faces.* 3\.jpg"):
        pool_templates(FACES, PLAIN, None, detector, Mode.parse("N1D1F0"))


def test_media_that_cancel_but_for_rounding_are_zero() -> None:
    faces = Faces(("a", "b", "c"), np.full(3, 5), np.arange(3))
    plain = np.array([[0.1, 0.7], [0.2, 0.1], [-0.3, -0.8]])
    assert (plain[0] + plain[1] + plain[2] != 0).all()
    with pytest.warns(ProtocolWarning, match=r"1 of 1 .*5"):
        templates = pool_templates(faces, plain, None, np.ones(3), Mode.parse("N1D0F0"))
    assert templates.zero == (5,)
    assert templates.vector_td.tolist() == [[0.0, 0.0]]


@pytest.mark.parametrize("chunk", [3, 1000])
def test_scores_of_pairs(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ijb_verification, "PAIR_CHUNK", chunk)
    templates = pool_templates(FACES, PLAIN, FLIPPED, DETECTOR, Mode())
    first, second = np.random.default_rng(1).integers(0, 4, (2, 50)).astype(np.int32)
    expected = [
        templates.vector_td[a] @ templates.vector_td[b] for a, b in zip(first, second, strict=True)
    ]
    assert pair_scores(templates, first, second) == pytest.approx(expected, abs=1e-12)


def test_equal_templates_tie_wherever_they_stand() -> None:
    faces = Faces(tuple(map(str, range(40))), np.repeat(np.arange(20), 2), np.tile([0, 1], 20))
    plain = np.tile(np.random.default_rng(0).normal(size=512), (40, 1))
    templates = pool_templates(faces, plain, None, np.ones(40), Mode.parse("N0D0F0"))
    first, second = (rows.astype(np.int32) for rows in np.triu_indices(20, 1))
    assert set(pair_scores(templates, first, second)) == {1.0}


def test_figures_come_with_what_is_unusual_in_the_pairs() -> None:
    templates = pool_templates(FACES, PLAIN, FLIPPED, DETECTOR, Mode())
    pairs = pairs_of([(40, 7, 0), (7, 40, 0), (12, 7, 0), (12, 2_000_000_000, 1), (40, 40, 1)])
    with pytest.warns(ProtocolWarning) as caught:
        found = verify(templates, pairs, Mode(), [0.5])
    assert (found.mode, found.repeated_pairs, found.pairs_with_itself) == ("N1D1F1", 1, 1)
    assert found.rates.genuine == 2
    assert [point.far for point in found.rates.tar_at_far] == [0.5]
    assert ["1 of 5" in str(one.message) for one in caught][:2] == [True, True]


def test_a_pair_with_both_labels_is_refused_in_either_order() -> None:
    templates = pool_templates(FACES, PLAIN, FLIPPED, DETECTOR, Mode())
    pairs = pairs_of([(40, 7, 1), (7, 40, 0)])
    with pytest.raises(ValueError, match=r"1 .*7 and 40"):
        check_pairs(templates, pairs)
