import json
from collections.abc import Generator
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pytest
import torch

from data.datasets.dataset import open_dataset
from data.records.format import pack_record
from data.records.writer import RecordWriter
from scripts.benchmark_loader import main
from scripts.benchmarks.loader.incumbent import PythonImages, incumbent_loader
from scripts.benchmarks.loader.report import READERS, record
from scripts.benchmarks.loader.ways import Way, Workload, all_ways, decoders

pytestmark = pytest.mark.slow

RECORDS = Path(__file__).parents[3] / "fixtures" / "recordio" / "insightface_header"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str]:
    folder = tmp_path_factory.mktemp("report")
    figures, page = folder / "all" / "figures.json", folder / "loader.md"
    arguments = ["--data", RECORDS, "--batch", 8, "--rounds", 3, "--seconds", 0.01]
    arguments += ["--incumbent", "python", "--json", figures, "--markdown", page]
    threads = torch.get_num_threads()
    assert main([str(one) for one in arguments]) == 0
    torch.set_num_threads(threads)
    return json.loads(figures.read_text()), page.read_text()


def test_the_report_has_every_way_and_ratio(report: tuple[dict[str, Any], str]) -> None:
    figures, page = report
    rows = {(row["way"], row["workers"]): row for row in figures["rows"]}
    ours = [(name, workers) for name in decoders() for workers in (1, 2)]
    assert list(rows) == [("bare decode", 1), *ours, ("incumbent", 0), ("incumbent", 2)]
    assert ours[:2] == [("ours", 1), ("ours", 2)]
    for (way, workers), row in rows.items():
        assert len(row["rounds"]) == 3
        assert row["images_per_second"] == median(row["rounds"]) > 0
        assert (row["cpu_seconds_per_image"] is None) == ((way, workers) == ("incumbent", 2))
        assert page.count(f"\n| {way} ") >= 1
    bare, ours = rows["bare decode", 1]["rounds"], rows["ours", 1]["rounds"]
    ratio = median(one / limit for one, limit in zip(ours, bare, strict=True))
    assert rows["ours", 1]["of_bare"] == pytest.approx(ratio)
    assert figures["targets"][0]["ratio"] == pytest.approx(ratio)
    assert figures["machine"]["versions"]["simplejpeg"]
    assert READERS["python"] in page


def test_all_ways_deliver_whole_batches() -> None:
    workload = Workload(open_dataset(RECORDS / "train.rec"), 112, 8, seed=1)
    for way in all_ways(workload, "python"):
        stream = way.open()
        assert list(islice(stream, 5)) == [8] * 5, way
        stream.close()


def test_the_incumbent_sees_the_same_samples_as_ours() -> None:
    workload = Workload(open_dataset(RECORDS / "train.rec"), 112, 8, seed=1)
    batch = next(workload.loader().batches(0, 1))
    keys = (workload.records.keys[index] for index in workload.indices())
    loader = incumbent_loader(
        Path(workload.records.location), keys, reader="python", batch_size=8, workers=0
    )
    images, labels = next(iter(loader))
    assert labels.tolist() == batch.labels.tolist()
    for theirs, ours in zip((images + 1) * 127.5, batch.images, strict=True):
        flipped = min((theirs - other).abs().max() for other in (ours, ours.flip(2)))
        assert flipped < 1e-3


def test_the_python_reader_reads_single_and_listed_labels(tmp_path: Path) -> None:
    dataset = open_dataset(RECORDS / "train.rec")
    with RecordWriter(tmp_path / "x.rec") as writer:
        writer.write(4, pack_record(7, 4, dataset.encoded(0)))
        writer.write(9, pack_record([3, 1], 9, dataset.encoded(1)))
    records = PythonImages(tmp_path / "x.rec")
    (first, image), (second, _) = records.read(4), records.read(9)
    assert (first, second) == (7.0, 3.0)
    assert np.asarray(image).shape == (112, 112, 3)


def test_images_count_once_the_rate_is_even() -> None:
    opened: list[str] = []

    def make_way(name: str, workers: int, size: int) -> Way:
        def run() -> Generator[int]:
            opened.append(name)
            for _ in range(6):
                yield 10**9  # until the rate is even
            while True:
                yield size

        return Way(name, workers, run, ahead=4)

    ways = [
        make_way("bare decode", 1, 8), make_way("ours", 1, 8), make_way("ours", 2, 8),
        make_way("incumbent", 0, 1), make_way("incumbent", 2, 2),
    ]  # fmt: skip
    samples = [[way.measure(0.001) for _ in range(2)] for way in ways]
    assert opened == [way.name for way in ways for _ in range(2)]
    assert max(sample.images for taken in samples for sample in taken) < 10**9
    assert len(record(ways, samples)["targets"]) == 3
    with pytest.raises(ValueError, match=r"seconds: 0\b"):
        ways[0].measure(0)


def test_what_cannot_be_measured_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "person"
    folder.mkdir()
    (folder / "0.jpg").write_bytes(b"x")
    assert main(["--data", str(tmp_path), "--json", str(tmp_path / "figures.json")]) == 1
    assert f"--data {tmp_path}" in capsys.readouterr().err
    mixed = RECORDS.parent / "mixed_encodings"
    assert main(["--data", str(mixed), "--json", str(tmp_path / "figures.json")]) == 1
    assert f"{mixed / 'train.rec'}" in capsys.readouterr().err


def test_a_missing_mxnet_is_named_with_its_extra(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--data", str(RECORDS), "--incumbent", "mxnet"]) == 1
    assert ".[mxnet,benchmarks]" in capsys.readouterr().err
