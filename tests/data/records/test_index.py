import logging
import struct
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from data.records.format import MAGIC_BYTES, RecordError, pack_record
from data.records.index import RecordIndex, open_index, read_index
from data.records.reader import RecordFile
from data.records.writer import RecordWriter


def write_records(path: Path, ids: list[int]) -> RecordFile:
    with RecordWriter(path) as writer:
        for key, record_id in enumerate(ids):
            writer.write(key, pack_record(0, record_id, b"image"))
    return RecordFile(path)


@pytest.mark.parametrize("chunk_bytes", [1, 7, 64, 1 << 24])
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
@pytest.mark.parametrize("last_line_end", [True, False])
def test_lines_are_parsed_whatever_the_chunks(
    chunk_bytes: int, line_end: str, last_line_end: bool, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    keys, offsets = rng.integers(0, 10 ** rng.integers(1, 17, (2, 60)))
    text = line_end.join(f"{key}\t{offset}" for key, offset in zip(keys, offsets, strict=True))
    (tmp_path / "x.idx").write_bytes((text + line_end * last_line_end).encode())
    index = read_index(tmp_path / "x.idx", chunk_bytes=chunk_bytes)
    np.testing.assert_array_equal(index.keys, keys)
    np.testing.assert_array_equal(index.offsets, offsets)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "12",
        "12 40",
        "12\t40\t1",
        "a\t40",
        "12\t-40",
        "12\t4.0",
        "\t40",
        "12\t",
        "1\t1\n1",
        "٣\t4",
        "1000000000000000000\t4",
        "1\t99999999999999999999999999999",
        "1\t" + "0" * 50 + "7\t8",
    ],
)
@pytest.mark.parametrize("chunk_bytes", [5, 1 << 24])
def test_a_line_of_another_form_is_refused_by_its_number(
    line: str, chunk_bytes: int, tmp_path: Path
) -> None:
    path = tmp_path / "x.idx"
    path.write_bytes(f"0\t0\n1\t40\n{line}\n3\t80\n".encode())
    number = 3 + line.count("\n")
    with pytest.raises(RecordError, match=rf"x\.idx, line {number}: .* key<tab>offset"):
        read_index(path, chunk_bytes=chunk_bytes)


def test_a_line_without_end_is_not_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "x.idx"
    with path.open("wb") as file:
        file.write(b"0\t0\n1\t40\n")
        file.truncate(100_000_000)  # zeros, as an interrupted copy leaves them
    tracemalloc.start()
    with pytest.raises(RecordError, match=r"x\.idx, line 3: .*x00"):
        read_index(path, chunk_bytes=1 << 16)
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()


def test_an_index_is_read_in_its_own_order(tmp_path: Path) -> None:
    file = write_records(tmp_path / "x.rec", [7, 7, 7])
    size = file.size // 3
    (tmp_path / "x.idx").write_text(f"9\t0\n2\t{2 * size}\n4\t{size}\n")
    index = open_index(file)
    assert index.keys.tolist() == [9, 2, 4]
    assert index.offsets.tolist() == [0, 2 * size, size]
    assert index.sorted().keys.tolist() == [2, 4, 9]
    assert index.sorted().offsets.tolist() == [2 * size, size, 0]
    assert index.sorted().between(3, 9).keys.tolist() == [4]


@pytest.mark.parametrize(
    ("ids", "keys"),
    [
        ([5, 0, 2**62], [5, 0, 2**62]),
        ([5, 1, 5], [0, 1, 2]),
        ([5, 1, 2**63], [0, 1, 2]),
    ],
)
def test_without_an_index_the_file_is_scanned(
    ids: list[int], keys: list[int], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = write_records(tmp_path / "x.rec", ids)
    (tmp_path / "x.idx").unlink()
    with caplog.at_level(logging.INFO):
        index = open_index(file)
    assert index.keys.tolist() == keys
    assert index.offsets.tolist() == [0, file.size // 3, 2 * (file.size // 3)]
    assert "x.rec" in caplog.text


def read_like_mxnet(path: Path) -> list[tuple[int, int]]:
    """Parse an index the way MXNet's reader does."""
    rows = []
    for line in path.read_text().splitlines():
        fields = line.strip().split("\t")
        rows.append((int(fields[0]), int(fields[1])))
    return rows


def test_a_rebuilt_index_is_written_next_to_the_file(tmp_path: Path) -> None:
    file = write_records(tmp_path / "x.rec", list(range(200)))
    written = (tmp_path / "x.idx").read_bytes()
    (tmp_path / "x.idx").unlink()
    rebuilt = open_index(file, cache_folder=tmp_path / "cache")
    assert (tmp_path / "x.idx").read_bytes() == written
    assert read_like_mxnet(tmp_path / "x.idx")[2] == (2, 80)
    again = open_index(file)
    assert again.keys.tolist() == rebuilt.keys.tolist()
    assert again.offsets.tolist() == rebuilt.offsets.tolist()
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["x.idx", "x.rec"]


@pytest.fixture(params=["read-only", "no room for the name"])
def unwritable(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """Yield three records in a folder where nothing else can be written, not even by root."""
    folder = tmp_path / "data"
    folder.mkdir()
    # The name of a temporary file would be longer than the 255 bytes that file systems allow.
    path = folder / ("x.rec" if request.param == "read-only" else f"{'x' * 240}.rec")
    write_records(path, [5, 6, 7])
    path.with_suffix(".idx").unlink()
    folder.chmod(0o555 if request.param == "read-only" else 0o755)
    yield path
    folder.chmod(0o755)


def test_an_index_that_cannot_be_next_to_the_file_is_kept_in_the_cache(
    unwritable: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache = tmp_path / "some" / "cache"
    assert open_index(RecordFile(unwritable), cache_folder=cache).keys.tolist() == [5, 6, 7]
    (kept,) = cache.iterdir()
    assert read_like_mxnet(kept) == [(5, 0), (6, 40), (7, 80)]
    assert list(unwritable.parent.iterdir()) == [unwritable]
    caplog.clear()
    with caplog.at_level(logging.INFO):
        assert open_index(RecordFile(unwritable), cache_folder=cache).keys.tolist() == [5, 6, 7]
    assert caplog.text == ""  # the file was not scanned again

    # It is used for that state of the file only.
    with unwritable.open("ab") as file:
        file.write(MAGIC_BYTES + struct.pack("<I", 4) + b"abcd")
    index = open_index(RecordFile(unwritable), cache_folder=cache)
    assert index.offsets.tolist() == [0, 40, 80, 120]


def test_an_index_that_cannot_be_written_is_used_from_memory(
    unwritable: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    with caplog.at_level(logging.WARNING):
        index = open_index(RecordFile(unwritable), cache_folder=tmp_path / "file")
    assert index.keys.tolist() == [5, 6, 7]
    assert "x.idx" in caplog.text
    assert "data.index_cache" in caplog.text


def test_records_without_headers_are_numbered(tmp_path: Path) -> None:
    with RecordWriter(tmp_path / "x.rec") as writer:
        offsets = [writer.write(key, b"abcd" + MAGIC_BYTES) for key in (8, 9)]
    (tmp_path / "x.idx").unlink()
    index = open_index(RecordFile(tmp_path / "x.rec"))
    assert (index.keys.tolist(), index.offsets.tolist()) == ([0, 1], offsets)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("", r"x\.idx"),
        ("4\t0\n5\t40\n4\t40\n", r"x\.idx, line 3: key 4 .* line 1"),
        ("0\t0\n1\t120\n", r"x\.idx, line 2: key 1 .* 120 .*x\.rec.* 120 bytes.*\(1 such"),
        ("0\t0\n1\t42\n", r"x\.idx, line 2: key 1 .* 42 .* multiple of 4"),
        ("0\t0\n7\t44\n", r"x\.rec, key 7, offset 44: .* 44: found"),
        ("version https://git-lfs.github.com/spec/v1\noid x\nsize 12\n", r"x\.idx.* 12 bytes"),
    ],
)
def test_an_index_that_does_not_fit_is_refused(text: str, values: str, tmp_path: Path) -> None:
    file = write_records(tmp_path / "x.rec", [0, 1, 2])
    assert file.size == 120
    (tmp_path / "x.idx").write_text(text)
    with pytest.raises(RecordError, match=values):
        open_index(file)


def test_a_file_shorter_than_its_index_says_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.rec"
    write_records(path, [0, 1, 2])
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(RecordError, match=r"x\.rec, key 2, offset 80: .* 112 bytes"):
        open_index(RecordFile(path))


def test_a_sorted_index_is_not_copied() -> None:
    index = RecordIndex(np.array([1, 5]), np.array([8, 0]))
    assert index.sorted() is index
