from itertools import count
from pathlib import Path

import numpy as np
import pytest
import simplejpeg

from data.datasets.dataset import open_records
from data.tools.check.run import check_records
from scripts.benchmark_tools import main
from scripts.benchmarks.tools.cases import Case, decode_case, encode_case, keep_case, scan_case
from scripts.benchmarks.tools.images import make_people, make_records, unique_images
from scripts.benchmarks.tools.report import markdown, measure, rows_of

IMAGES = 45


@pytest.fixture(scope="module")
def faces() -> list[bytes]:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 112, 112, 3), np.uint8)
    return [simplejpeg.encode_jpeg(one) for one in pixels]


@pytest.fixture
def cases(faces: list[bytes], tmp_path: Path) -> list[Case]:
    make_people(tmp_path / "people", faces, IMAGES)
    make_records(tmp_path / "records", faces, IMAGES)
    people, records = tmp_path / "people", tmp_path / "records" / "train.rec"
    return [
        scan_case("cold", records, cold=True),
        scan_case("warm", records, cold=False),
        decode_case(records, 2),
        keep_case(people, tmp_path / "keep", IMAGES),
        encode_case(people, tmp_path / "encode", IMAGES, 1),
    ]


def test_images_differ_in_their_bytes_and_not_in_their_pixels(faces: list[bytes]) -> None:
    made = list(unique_images(faces, IMAGES))
    assert [person for person, _ in made] == [number // 20 for number in range(IMAGES)]
    assert len({image for _, image in made}) == IMAGES
    for number in (0, 7, 44):
        pixels = simplejpeg.decode_jpeg(made[number][1])
        assert (pixels == simplejpeg.decode_jpeg(faces[number % 3])).all()


def test_the_set_is_clean_and_made_once(faces: list[bytes], tmp_path: Path) -> None:
    for _ in range(2):
        make_records(tmp_path / "records", faces, IMAGES)
        make_people(tmp_path / "people", faces, IMAGES)
        result = check_records([tmp_path / "records" / "train.rec"])
        assert (result.images, result.identities, result.clean) == (IMAGES, 3, True)
        assert result.findings.to_list() == []
        made = {path.stat().st_mtime_ns for path in tmp_path.glob("*/*")}
    assert len(list((tmp_path / "people").glob("*/*.jpg"))) == IMAGES
    assert made == {path.stat().st_mtime_ns for path in tmp_path.glob("*/*")}


def test_every_case_does_its_work(cases: list[Case], tmp_path: Path) -> None:
    turns: list[None] = []
    seconds = measure(cases, 2, lambda: turns.append(None))
    assert len(turns) == 10
    assert all(len(taken) == 2 and min(map(min, taken)) > 0 for taken in seconds)
    files = sorted((tmp_path / "people").glob("*/*.jpg"))
    assert [case.amount for case in cases[2:]] == [IMAGES] * 3
    # In the second round the tool was first, and what the bare loop wrote is all that is left.
    assert (tmp_path / "keep" / "all").read_bytes() == b"".join(f.read_bytes() for f in files)
    for case in cases[3:]:
        case.tool()
    kept, encoded = (
        open_records(tmp_path / "keep" / "packed"),
        open_records(tmp_path / "encode/packed"),
    )
    assert [bytes(kept.record(i).image) for i in range(IMAGES)] == [f.read_bytes() for f in files]
    assert len(encoded) == IMAGES


def test_the_page_has_the_median_ratio_of_each_case() -> None:
    order: list[str] = []
    numbers = count()

    def way(name: str) -> Case:
        return Case(
            name, 100, "images", lambda: order.append("bare"), lambda: order.append("tool"),
            lambda: order.append(str(next(numbers))),
        )  # fmt: skip

    case = way("a case")
    measure([case], 2, lambda: None)
    assert order == ["0", "bare", "1", "tool", "2", "tool", "3", "bare"]
    rows = rows_of([case], [[(1.0, 1.5), (2.0, 2.0), (1.0, 1.25)]])
    assert rows[0]["ratio"] == 1.25
    machine = {"device": "a CPU", "cores": 2, "threads": 2, "versions": {}, "commit": None}
    report = {"command": "c", "machine": machine, "settings": "s", "rows": rows, "start": 0.2}
    page = markdown(report)
    assert "| a case | 100 images | 1.000 s | 1.500 s | 1.250 s | 2.000 s | 67 images/s |" in page


def test_what_cannot_be_measured_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--folder", str(tmp_path), "--images", "0"]) == 1
    assert "--images 0 --large 270000: expected at least 1" in capsys.readouterr().err
    with pytest.raises(ValueError, match="rounds is 0"):
        measure([], 0, lambda: None)
