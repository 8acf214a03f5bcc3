import sys
from pathlib import Path

import pytest

from data.datasets.dataset import open_dataset
from data.records.cache import CACHE_FROM
from scripts.benchmarks.loader.index_case import measure_index, write_dataset

pytestmark = pytest.mark.slow


def test_the_dataset_has_the_layout_of_public_ones(tmp_path: Path) -> None:
    assert write_dataset(tmp_path / "train.rec", 100) == 3
    dataset = open_dataset(tmp_path)
    assert dataset.labels.tolist() == [0] * 47 + [1] * 47 + [2] * 6
    assert dataset.class_mapping is None
    assert len(dataset.encoded(99)) == 8


@pytest.mark.skipif(sys.platform != "linux", reason="needs the memory figures of Linux")
def test_opening_is_measured_and_the_files_are_deleted(tmp_path: Path) -> None:
    images = 2 * CACHE_FROM
    figures = measure_index(images, tmp_path / "index")
    assert (figures["entries"], figures["identities"]) == (images, -(-images // 47))
    assert figures["open_s"] > 0
    assert figures["first_open_s"] > 0
    tables = images * 12 / 2**20
    assert figures["mapped_mib"] > 0.9 * tables
    assert list((tmp_path / "index").iterdir()) == []
