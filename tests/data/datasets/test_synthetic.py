"""Synthetic identities: labels, images, and that nothing grows with their number."""

import tracemalloc

import numpy as np
import pytest

from data.datasets.synthetic import SyntheticImages
from data.loading.decode import decode_batch
from data.loading.loader import Loader
from data.order.orders import GlobalOrder

SIDE = 32


def make(identities: int, images: int, seed: int = 0) -> SyntheticImages:
    return SyntheticImages(identities=identities, images=images, image_size=SIDE, seed=seed)


@pytest.mark.parametrize("identities", [1, 2, 63, 64, 65, 1000])
def test_every_identity_has_an_image_and_no_other_exists(identities: int) -> None:
    dataset = make(identities, 2 * identities + 5)
    assert dataset.labels.dtype == np.int32
    assert set(dataset.labels.tolist()) == set(range(identities))
    chosen = np.array([0, 2 * identities + 4, identities])
    assert dataset.classes(chosen).tolist() == dataset.labels[chosen].tolist()


def test_a_few_identities_have_many_images_and_half_of_them_hardly_any() -> None:
    identities, more = 100_000, 200_000
    counts = np.bincount(make(identities, identities + more).labels[identities:])
    counts = np.sort(counts)[::-1]
    groups = 12  # of 48, 49, 98, ... 25,000 and 50,000 identities
    assert counts[: 100_000 >> 11].sum() == pytest.approx(more / groups, rel=0.1)
    assert counts[50_000:].sum() < more / groups
    # In a run of a few thousand images identities repeat, as they must for a loss to fall.
    shown = make(10_000_000, 60_000_000).classes(GlobalOrder(60_000_000, 0).order(0, 6400)[0])
    assert 3000 < len(np.unique(shown)) < 5500


def test_popular_identities_are_spread_over_the_class_ids() -> None:
    labels = make(10_000, 30_000).labels[10_000:]
    top = np.argsort(np.bincount(labels, minlength=10_000))[-200:]
    assert np.bincount(top // 2500, minlength=4).min() > 30


def test_images_of_an_identity_are_alike_and_of_no_other() -> None:
    dataset = make(200, 600)
    images = decode_batch(dataset, np.arange(600), SIDE).reshape(600, -1).astype(np.float32)
    assert len(np.unique(images, axis=0)) == 600
    images -= images.mean(axis=1, keepdims=True)
    images /= np.linalg.norm(images, axis=1, keepdims=True)
    labels = dataset.labels
    cosines = images[200:] @ images[:200].T
    own = cosines[np.arange(400), labels[200:]]
    assert own.mean() > 0.6
    assert cosines.mean() < 0.2
    assert (cosines.argmax(axis=1) == labels[200:]).mean() > 0.5


def test_a_seed_decides_labels_and_pixels() -> None:
    first, again, other = make(50, 100), make(50, 100), make(50, 100, seed=1)
    assert first.encoded(70) == again.encoded(70) != other.encoded(70)
    assert first.labels.tolist() == again.labels.tolist() != other.labels.tolist()


def test_ten_million_identities_take_no_memory_and_any_rank_its_part() -> None:
    tracemalloc.start()
    dataset = make(10_000_000, 60_000_000)
    loaders = [
        Loader(
            dataset, image_size=SIDE, global_batch_size=6, accumulation=2, rank=rank,
            world_size=ranks, order=GlobalOrder(len(dataset), 3),
        )
        for ranks, rank in ((1, 0), (3, 1))
    ]  # fmt: skip
    whole, part = (list(loader.batches(1_000_000, 1_000_002)) for loader in loaders)
    assert tracemalloc.get_traced_memory()[1] < 4 << 20
    tracemalloc.stop()
    for batch, third in zip(whole, part, strict=True):
        assert third.labels.tolist() == batch.labels[1:2].tolist()
        assert (third.images == batch.images[1:2]).all()


def test_a_count_out_of_range_is_refused() -> None:
    for counts in ((0, 5), (6, 5)):
        with pytest.raises(ValueError, match=str(counts[0])):
            make(*counts)
