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
from scripts.benchmarks.loader.incumbent import PythonRecords, usual_loader
from scripts.benchmarks.loader.measure import measure
from scripts.benchmarks.loader.report import record
from scripts.benchmarks.loader.ways import Setting, Way, all_ways, decoders

RECORDS = Path(__file__).parents[2] / "fixtures" / "recordio" / "insightface_header"


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
    assert "without MXNet" in page


def test_all_ways_deliver_whole_batches() -> None:
    setting = Setting(open_dataset(RECORDS / "train.rec"), 112, 8, seed=1)
    for way in all_ways(setting, "python"):
        stream = way.open()
        assert list(islice(stream, 5)) == [8] * 5, way
        stream.close()


def test_the_incumbent_sees_the_same_samples_as_ours() -> None:
    setting = Setting(open_dataset(RECORDS / "train.rec"), 112, 8, seed=1)
    batch = next(setting.loader().batches(0, 1))
    keys = (setting.records.keys[index] for index in setting.indices())
    usual = usual_loader(
        Path(setting.records.location), keys, reader="python", batch_size=8, workers=0
    )
    images, labels = next(iter(usual))
    assert labels.tolist() == batch.labels.tolist()
    for theirs, ours in zip((images + 1) * 127.5, batch.images, strict=True):
        flipped = min((theirs - other).abs().max() for other in (ours, ours.flip(2)))
        assert flipped < 1e-3


def test_the_plain_reader_reads_single_and_listed_labels(tmp_path: Path) -> None:
    dataset = open_dataset(RECORDS / "train.rec")
    with RecordWriter(tmp_path / "x.rec") as writer:
        writer.write(4, pack_record(7, 4, dataset.encoded(0)))
        writer.write(9, pack_record([3, 1], 9, dataset.encoded(1)))
    records = PythonRecords(tmp_path / "x.rec")
    (first, image), (second, _) = records.read(4), records.read(9)
    assert (first, second) == (7.0, 3.0)
    assert np.asarray(image).shape == (112, 112, 3)


def test_rates_count_from_an_even_run_in_turns() -> None:
    opened: list[str] = []

    def way(name: str, workers: int, size: int) -> Way:
        def run() -> Generator[int]:
            opened.append(name)
            for _ in range(6):
                yield 10**9  # what comes before the run is even
            while True:
                yield size

        return Way(name, workers, run, ahead=4, one_process=True)

    ways = [
        way("bare decode", 1, 8), way("ours", 1, 8), way("ours", 2, 8),
        way("incumbent", 0, 1), way("incumbent", 2, 2),
    ]  # fmt: skip
    samples = measure(ways, rounds=2, seconds=0.001, done=lambda: None)
    assert opened == [one.name for one in ways] * 2
    assert max(sample.images for taken in samples for sample in taken) < 10**9
    assert len(record(ways, samples)["targets"]) == 3
    with pytest.raises(ValueError, match="rounds is 0"):
        measure(ways, rounds=0, seconds=1, done=lambda: None)


def test_what_cannot_be_measured_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "person"
    folder.mkdir()
    (folder / "0.jpg").write_bytes(b"x")
    assert main(["--data", str(tmp_path), "--json", str(tmp_path / "figures.json")]) == 1
    assert "expected one .rec file" in capsys.readouterr().err
    mixed = RECORDS.parent / "mixed_encodings"
    assert main(["--data", str(mixed), "--json", str(tmp_path / "figures.json")]) == 1
    assert "no JPEG" in capsys.readouterr().err


def test_mxnet_is_asked_for_by_its_extra(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--data", str(RECORDS), "--incumbent", "mxnet"]) == 1
    assert "pip install -e '.[mxnet]'" in capsys.readouterr().err
