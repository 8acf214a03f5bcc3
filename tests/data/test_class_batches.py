"""Tests of `data.build.class_batches`."""

from pathlib import Path

import pytest
import torch

from data import build
from data.augmentations.augment import normalise
from data.build import build_dataset, class_batches
from data.datasets.dataset import FaceDataset
from data.loading.decode import decode_batch
from recognition.config import Config
from recognition.config_file import load_config
from recognition.distributed import World

CPU, IMAGES = torch.device("cpu"), 3  # of each of the 13 identities


@pytest.fixture
def config(tiny_config: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    monkeypatch.setattr(build, "CLASS_IMAGES", IMAGES)
    return load_config(tiny_config, ["train.accumulation=2", "data.augment.flip=1"])


def collected(config: Config, dataset: FaceDataset, world: World) -> list[tuple[object, ...]]:
    return list(class_batches(config, dataset, world, CPU))


def test_each_identity_comes_with_its_first_images_as_they_are(config: Config) -> None:
    dataset = build_dataset(config.data, World())
    parts = collected(config, dataset, World())
    images, labels = (torch.cat(both) for both in zip(*parts, strict=True))
    assert len(images) == 42  # two steps of 21 hold 39 images, and 3 that are not to be used
    assert labels.tolist() == [c for c in range(13) for _ in range(IMAGES)] + [-1] * 3
    first = [index for c in range(13) for index in (dataset.labels == c).nonzero()[0][:IMAGES]]
    pixels = torch.empty(39, 32, 32, 3, dtype=torch.uint8)
    decode_batch(dataset, torch.tensor(first).numpy(), 32, pixels.numpy())
    assert torch.equal(images[:39], normalise(pixels.permute(0, 3, 1, 2)))


def test_the_ranks_parts_follow_each_other(config: Config) -> None:
    dataset = build_dataset(config.data, World())
    whole = collected(config, dataset, World())
    ranks = [collected(config, dataset, World(rank, 2)) for rank in range(2)]
    for batch, *parts in zip(whole, *ranks, strict=True):
        for expected, *found in zip(batch, *parts, strict=True):
            assert torch.equal(torch.cat(found), expected)


def test_what_takes_the_place_of_a_bad_record_is_of_no_class(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = config.data.model_copy(update={"on_bad_record": "skip", "max_bad_share": 0.5})
    config = config.model_copy(update={"data": settings})
    dataset = build_dataset(config.data, World())
    read = type(dataset).encoded
    bad = int((dataset.labels == 5).nonzero()[0][1])
    monkeypatch.setattr(
        type(dataset), "encoded", lambda self, i: b"nothing" if i == bad else read(self, i)
    )
    labels = torch.cat([batch[1] for batch in collected(config, dataset, World())])  # type: ignore[misc]
    assert labels[5 * IMAGES : 6 * IMAGES].tolist() == [5, -1, 5]
