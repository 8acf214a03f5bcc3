from collections.abc import Callable
from pathlib import Path

from data.records.format import pack_record
from data.records.reader import RecordFile
from data.records.writer import RecordWriter
from tests.data.tools.check.helpers import Finding, check, encoded, found, keys_of


def rewrite_index(faces: Path, change: Callable[[list[str]], list[str]]) -> dict[str, Finding]:
    path = faces.with_suffix(".idx")
    path.write_text("".join(f"{line}\n" for line in change(path.read_text().splitlines())))
    return found(check(faces, decode=False))


def test_lines_that_are_not_entries(faces: Path) -> None:
    findings = rewrite_index(faces, lambda lines: [lines[0], "7 12", *lines[1:], "-1\t0", ""])
    assert set(findings) == {"index_line"}
    places = findings["index_line"]["places"]
    assert [place["line"] for place in places] == [2, 19, 20]
    found_there = [place["detail"].partition(" ")[2] for place in places]
    assert found_there == ["b'7 12'", "b'-1\\t0'", "b''"]


def test_an_empty_index(faces: Path) -> None:
    findings = rewrite_index(faces, lambda _: [])
    assert findings["index_line"]["count"] == 1
    assert findings["index_missing"]["count"] == 17


def test_a_key_twice_and_a_record_twice(faces: Path) -> None:
    findings = rewrite_index(
        faces, lambda lines: [*lines, lines[2].replace("3\t", "99\t"), lines[4]]
    )
    (again,) = findings["index_repeated_key"]["places"]
    assert (again["key"], again["line"]) == (5, 19)
    assert keys_of(findings["index_repeated_offset"]) == [3, 5]


def test_entries_that_point_to_no_record(faces: Path) -> None:
    size = faces.stat().st_size
    findings = rewrite_index(faces, lambda lines: [*lines, "50\t400", f"51\t{size}", "52\t9"])
    assert keys_of(findings["index_elsewhere"]) == [50, 52]
    assert keys_of(findings["index_outside"]) == [51]
    assert set(findings) == {"index_elsewhere", "index_outside"}


def test_a_record_without_an_entry_and_a_key_that_is_missing(faces: Path) -> None:
    findings = rewrite_index(faces, lambda lines: [*lines[:6], *lines[7:]])
    (place,) = findings["index_missing"]["places"]
    assert place["offset"] == RecordFile(faces).scan()[6]
    assert "key" not in place
    assert keys_of(findings["images_missing"]) == [7]
    assert set(findings) == {"index_missing", "images_missing"}


def test_swapped_entries(faces: Path) -> None:
    def swap(lines: list[str]) -> list[str]:
        (key, offset), (other, other_offset) = lines[0].split("\t"), lines[11].split("\t")
        return [f"{key}\t{other_offset}", *lines[1:11], f"{other}\t{offset}", *lines[12:]]

    findings = rewrite_index(faces, swap)
    assert keys_of(findings["other_id"]) == [12, 1]
    assert keys_of(findings["range"]) == [13, 16]  # whose identities now share an image each


def test_ids_that_were_never_set_are_not_reported(tmp_path: Path) -> None:
    with RecordWriter(tmp_path / "x.rec") as writer:
        for key in range(5):
            writer.write(key + 10, pack_record(key, 0, encoded(seed=key)))
    assert found(check(tmp_path / "x.rec")) == {}


def test_a_file_without_an_index_is_clean_with_a_note(faces: Path) -> None:
    faces.with_suffix(".idx").unlink()
    result = check(faces)
    assert set(found(result)) == {"no_index"}
    assert result.clean
