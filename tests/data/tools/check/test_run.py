import re
from multiprocessing import active_children
from pathlib import Path

import pytest

import data.tools.check.run
from data.records.format import MAGIC_BYTES, RecordError
from data.records.reader import RecordFile
from data.tools.check.kinds import KINDS
from data.tools.check.run import check_records
from tests.data.tools.check.helpers import check, flip_magic, found, write


@pytest.mark.usefixtures("chunk")
@pytest.mark.parametrize("decode", [True, False])
def test_nothing_is_found_in_a_clean_file(faces: Path, decode: bool) -> None:
    result = check(faces, decode=decode)
    assert (result.records, result.images, result.identities) == (17, 12, 4)
    assert result.size == faces.stat().st_size
    assert (result.clean, result.findings.to_list()) == (True, [])
    assert re.search(rf"{faces}: 17 .*12 .*4 ", result.text())


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "decode"), [(2, True), (9, True), (9, False)])
def test_threads_and_processes_find_the_same(
    faces: Path, workers: int, decode: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = bytearray(faces.read_bytes())
    offsets = RecordFile(faces).scan()
    flip_magic(content, int(offsets[5]))
    content[offsets[3] : offsets[4]] = content[offsets[0] : offsets[1]].ljust(
        int(offsets[4] - offsets[3]), b"\0"
    )[: int(offsets[4] - offsets[3])]
    faces.write_bytes(content)
    alone = check(faces, decode=decode)
    monkeypatch.setattr(data.tools.check.run, "CHUNK", 1024)
    steps: list[tuple[int, int]] = []
    others = 0

    def progress(done: int, total: int) -> None:
        nonlocal others
        steps.append((done, total))
        others = max(others, len(active_children()))

    together = check_records([faces], decode=decode, workers=workers, progress=progress)
    assert (others > 0) == (workers == 9 and decode)  # so many decoders are processes
    assert together.findings.to_list() == alone.findings.to_list()
    size = faces.stat().st_size
    assert steps == [(min(at + 1024, size), size) for at in range(0, size, 1024)]


def test_a_property_file_with_another_number(faces: Path) -> None:
    faces.with_name("property").write_text("5,112,112\n")
    (place,) = found(check(faces))["property"]["places"]
    assert re.match("found '5,112,112', .* 4,", place["detail"])


def test_many_findings_are_counted_and_few_are_shown(tmp_path: Path) -> None:
    path = write(tmp_path / "x.rec", [(0.0, b"no image %d" % number) for number in range(30)])
    result = check(path)
    assert found(result)["undecodable"]["count"] == 30
    text = result.text()
    kind = KINDS["undecodable"]
    assert f"ERROR: {kind.title}: 30\n" in text
    assert text.count("x.rec, key") == 5
    assert re.search(r"\.\.\. .*\b25\b", text)
    assert kind.fix in text


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "empty"),
        (b"PK\x03\x04" * 99, "b'PK"),
        (b"x" + MAGIC_BYTES, "b'x"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 5\n", "git lfs pull"),
    ],
)
def test_what_is_no_record_file_is_refused(tmp_path: Path, content: bytes, found: str) -> None:
    (tmp_path / "x.rec").write_bytes(content)
    with pytest.raises(RecordError, match=rf"x\.rec.*{found}"):
        check(tmp_path / "x.rec")


def test_no_workers_are_refused(faces: Path) -> None:
    with pytest.raises(ValueError, match="workers is 0"):
        check_records([faces], workers=0)
