"""Tests of `scripts/clean_records.py` with a small network that knows nobody."""

import csv
import errno
import json
import os
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from data.datasets.dataset import open_dataset, open_records
from data.pairs.bin_file import write_pair_file
from data.records.writer import write_face_records
from data.tools.record_set import read_class_names
from scripts import clean_records, pack_records
from scripts.cleaning import embed
from scripts.faces import parts
from scripts.faces.gallery import fingerprint
from tests.recognition.inference.small_run import faces, write_run

PEOPLE = 5


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five people with two faces each and a copy of the first, and a file that is no image."""
    folder = tmp_path_factory.mktemp("data") / "<b>people"
    for number, face in enumerate(faces(2 * PEOPLE)):
        place = folder / f"p{number // 2}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(face).save(place / f"{number % 2}.png")
        if number % 2 == 0:
            Image.fromarray(face ^ np.uint8(1)).save(place / "copy.png")
    (folder / "p4" / "broken.jpg").write_bytes(b"\xff\xd8\xff no image")
    images = [(folder / f"p{n}" / "0.png").read_bytes() for n in (0, 0, 1, 2)]
    write_pair_file(folder.parent / "mine.bin", images, [True, False])
    return folder


def clean(run: Path, people: Path, work: Path, *more: object) -> int:
    arguments = [people, "--model", run, "--report", work / "report", "--device", "cpu", *more]
    return clean_records.main([str(argument) for argument in arguments])


class Page(HTMLParser):
    """The tags of a page, and the sources of its pictures."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.sources: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.sources += [value or "" for name, value in attrs if name == "src"]


def test_report_and_cleaned_records(
    run: Path, people: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sets = ("--verification", people.parent / "mine.bin")
    output = tmp_path / "clean"
    assert clean(run, people, tmp_path, *sets, "--output", output, "--fix", "duplicates") == 0
    assert f"{output} holds 10 images of 5 identities" in capsys.readouterr().out
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert report["counts"]["unreadable"] == 1
    assert report["counts"]["duplicates"] == PEOPLE
    with (output / "images.csv").open(newline="") as file:
        rows = {Path(row["where"]).parts[-2:]: row for row in csv.DictReader(file)}
    reasons = [rows[f"p{n}", "copy.png"]["reason"] for n in range(PEOPLE)]
    # Either of two copies may be the first one by its name; 0.png comes before copy.png.
    assert reasons == ["duplicates"] * PEOPLE
    assert rows["p4", "broken.jpg"]["reason"] == "unreadable"
    assert rows["p4", "broken.jpg"]["new_label"] == ""
    cleaned, original = open_dataset(output), open_dataset(str(people))
    assert cleaned.labels.tolist() == sorted([0, 1, 2, 3, 4] * 2)
    kept = [int(row["image"]) for row in rows.values() if row["new_label"]]
    every = {bytes(original.encoded(index)) for index in kept}
    assert {bytes(cleaned.encoded(index)) for index in range(len(cleaned))} == every
    page = Page((tmp_path / "report" / "report.html").read_text())
    assert "script" not in page.tags
    assert "b" not in page.tags  # a name is no tag
    assert len(page.sources) >= 2 * PEOPLE
    assert all(source.startswith("data:image/jpeg;base64,") for source in page.sources)


def test_names_of_records_are_in_the_report_and_beside_the_cleaned_ones(
    run: Path, people: Path, tmp_path: Path
) -> None:
    data, output, folder = tmp_path / "data", tmp_path / "clean", tmp_path / "people"
    shutil.copytree(people, folder, ignore=shutil.ignore_patterns("broken.jpg"))
    (folder / "p3").rename(folder / "Ann Müller")
    assert pack_records.main([str(folder), str(data)]) == 0
    assert clean(run, data, tmp_path, "--output", output, "--fix", "duplicates") == 0
    assert "label Ann Müller" in (tmp_path / "report" / "report.html").read_text()
    names = ["Ann Müller", "p0", "p1", "p2", "p4"]
    for table in ("labels.csv", "images.csv"):
        with (output / table).open(newline="", encoding="utf-8") as file:
            assert sorted({row["label"] for row in csv.DictReader(file)}) == names
    assert read_class_names(open_records(output)) == names


def test_labels_without_names_are_texts_in_the_report(
    run: Path, people: Path, tmp_path: Path
) -> None:
    images = sorted(people.glob("*/*.png"))
    photos = ((int(path.parent.name[1:]), path.read_bytes()) for path in images)
    write_face_records(tmp_path / "data", photos)
    assert clean(run, tmp_path / "data", tmp_path, "--threshold", "swapped=-9") == 0
    found = json.loads((tmp_path / "report" / "report.json").read_text())["findings"]
    labels = {one["label"][1] for kind in ("swapped", "outlier") for one in found[kind]}
    assert labels
    assert labels <= set("01234")


@pytest.mark.parametrize("packed", [False, True])
def test_names_that_are_no_utf8_reach_the_report(
    run: Path, people: Path, tmp_path: Path, packed: bool
) -> None:
    folder, data = tmp_path / "people", tmp_path / "data"
    shutil.copytree(people, folder, ignore=shutil.ignore_patterns("broken.jpg"))
    (folder / "p3").rename(os.fsdecode(bytes(folder) + b"/\xffnn"))
    if packed:
        assert pack_records.main([str(folder), str(data)]) == 0
    assert clean(run, data if packed else folder, tmp_path) == 0
    assert b",\xffnn," in (tmp_path / "report" / "labels.csv").read_bytes()
    assert "label ?nn" in (tmp_path / "report" / "report.html").read_text()


def test_the_page_shows_labels_with_images_that_cannot_be_read(
    run: Path, people: Path, tmp_path: Path
) -> None:
    data = shutil.copytree(people, tmp_path / "people")
    for folder in data.iterdir():
        (folder / "0_broken.png").write_bytes(b"no image")  # before the others
    # All images that can be judged are said to be of another label, so that labels are shown.
    found = ("--threshold", "swapped=-9", "relabel=-9", "--fix", "swapped")
    assert clean(run, data, tmp_path, *found) == 0
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    counts = report["counts"]
    assert counts["swapped"] >= PEOPLE
    page = (tmp_path / "report" / "report.html").read_text()
    assert page.count("<article") == counts["swapped"] + counts["duplicates"]


def test_embeddings_that_are_not_finite_count_as_unreadable(
    run: Path, people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedded = embed._embed

    def overflow(*arguments: Any) -> NDArray[np.float32]:
        found = embedded(*arguments)
        found[0, 3] = np.inf
        return found

    monkeypatch.setattr(embed, "_embed", overflow)
    assert clean(run, people, tmp_path) == 0
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert report["counts"]["unreadable"] == 2  # of one part; the other is no image
    assert report["after"]["images"] > 0


def test_another_index_has_other_embeddings(tmp_path: Path) -> None:
    file = tmp_path / "train.rec"
    write_face_records(tmp_path, [(label, encoded) for label, encoded in enumerate((b"a", b"b"))])
    index = file.with_suffix(".idx")
    before = fingerprint(open_dataset(str(file)))
    rows = [line.split("\t") for line in index.read_text().splitlines()]
    rows[0][1], rows[1][1] = rows[1][1], rows[0][1]
    index.write_text("".join("\t".join(row) + "\n" for row in rows))
    assert fingerprint(open_dataset(str(file))) != before


def test_an_error_that_may_pass_is_not_kept(
    run: Path, people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = Path.read_bytes

    def fail(path: Path) -> bytes:
        if path.name == "1.png":
            raise OSError(errno.EIO, "the disk says no")
        return read(path)

    with monkeypatch.context() as broken:
        broken.setattr(Path, "read_bytes", fail)
        assert clean(run, people, tmp_path) == 1
    assert clean(run, people, tmp_path) == 0
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert report["counts"]["unreadable"] == 1


def test_an_interrupted_job_goes_on(
    run: Path, people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(parts, "PART", 6)  # of 16 images
    original, calls = embed._rows, []

    def fail_at_second(*arguments: object) -> object:
        calls.append(arguments)
        if len(calls) == 2:
            raise ValueError("stopped")
        return original(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(embed, "_rows", fail_at_second)
    assert clean(run, people, tmp_path) == 1
    # Ranks that share the work: the second of three, then one that finds what is left.
    for name, value in (("RANK", "1"), ("WORLD_SIZE", "3")):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(clean_records, "barrier", lambda: None)
    monkeypatch.setattr(clean_records, "process_group", lambda *_: monkeypatch.context())
    assert clean(run, people, tmp_path) == 0
    assert not (tmp_path / "report" / "report.json").exists()  # the first rank writes it
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name)
    capsys.readouterr()
    assert clean(run, people, tmp_path) == 0
    assert "12 were embedded by an earlier try" in capsys.readouterr().out
    assert len(calls) == 4
    assert clean(run, people, tmp_path, "--flip") == 0  # other embeddings, beside those
    assert "0 were embedded by an earlier try" in capsys.readouterr().out


def test_mistakes_are_refused(
    run: Path, people: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    for number, face in enumerate(faces(2)):
        (tmp_path / "single" / str(number)).mkdir(parents=True)
        Image.fromarray(face).save(tmp_path / "single" / str(number) / "a.png")
    cases: list[tuple[Path, tuple[object, ...], str]] = [
        (people, ("--output", tmp_path / "full"), str(tmp_path / "full")),
        (people, ("--verification", "lfw"), f"{people / 'lfw.bin'} does not exist"),
        (people, ("--verification", "lfw"), "--folder"),
        (people, ("--verification", tmp_path / "none.bin"), "none.bin: no such file"),
        (people, ("--verification", *2 * [people.parent / "mine.bin"]), "mine twice"),
        (people, ("--threshold", "swaped=1"), "swaped"),
        (people, ("--threshold", "same=nan"), "same=nan"),
        (people, ("--precision", "1"), "precision"),
        (tmp_path / "single", (), "2 identities"),
        (tmp_path / "none", (), str(tmp_path / "none")),
    ]
    for data, more, words in cases:
        assert clean(run, data, tmp_path, *more) == 1
        assert words in capsys.readouterr().err
