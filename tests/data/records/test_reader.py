import multiprocessing
import struct
import tracemalloc
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest

from data.records.format import MAGIC_BYTES, SIZE_MASK, RecordError, pack_record
from data.records.reader import MAX_PARTS, RecordFile
from data.records.writer import RecordWriter

LFS_POINTER = b"""version https://git-lfs.github.com/spec/v1
oid sha256:cd66882654d98ab50da58bfa7ae2f7d8dac71c0f7ccf37999809a59ed075ea5a
size 268322544
"""
MAGIC_AS_LABEL = struct.unpack("<f", MAGIC_BYTES)[0]
PAYLOADS = [
    pack_record(3, 0, b"image"),
    pack_record([4, 5, 6], 1, b"x" * 9),
    pack_record([1, 2], 2, b""),
    pack_record(8, 2**40, b"abcd" + MAGIC_BYTES + b"efgh"),
    pack_record([MAGIC_AS_LABEL] * 2, 4, b"i"),
    b"0123456789",
    b"",
    pack_record([1, 2, 3], 0, b"")[:-1],
]


def part(flag: int, content: bytes) -> bytes:
    return MAGIC_BYTES + struct.pack("<I", flag << 29 | len(content)) + content


@pytest.fixture
def path(tmp_path: Path) -> Path:
    with RecordWriter(tmp_path / "some.rec") as writer:
        for key, payload in enumerate(PAYLOADS):
            writer.write(key, payload)
    return tmp_path / "some.rec"


def test_headers_of_many_records_are_decoded_at_once(path: Path) -> None:
    file = RecordFile(path)
    headers = file.headers(file.scan())
    assert headers.image_sizes[:5].tolist() == [5, 9, 0, 12, 1]
    assert (headers.image_sizes[5:] < 0).all()
    assert headers.flags[:5].tolist() == [0, 3, 2, 0, 2]
    assert headers.ids[:5].tolist() == [0, 1, 2, 2**40, 4]
    nan = float("nan")
    expected: list[list[float]] = [[3, nan], [4, 5], [1, 2], [8, nan], [MAGIC_AS_LABEL] * 2]
    np.testing.assert_array_equal(headers.labels[:5], np.array(expected, np.float32))


def test_headers_are_read_in_chunks_with_their_rows(path: Path) -> None:
    file = RecordFile(path)
    offsets = file.scan()
    chunks = list(file.headers_in_chunks(offsets, range(8), chunk=3))
    assert [rows for rows, _ in chunks] == [slice(0, 3), slice(3, 6), slice(6, 8)]
    sizes = np.concatenate([headers.image_sizes for _, headers in chunks])
    assert sizes.tolist() == file.headers(offsets).image_sizes.tolist()


def test_a_file_cut_anywhere_is_refused_and_never_misread(path: Path, tmp_path: Path) -> None:
    whole = path.read_bytes()
    offsets = RecordFile(path).scan()
    paddings = [-len(payload) % 4 for payload in PAYLOADS]
    ends = np.append(offsets[1:], len(whole)) - paddings
    for size in range(4, len(whole)):
        (tmp_path / "cut.rec").write_bytes(whole[:size])
        file = RecordFile(tmp_path / "cut.rec")
        intact = int((ends <= size).sum())
        for offset, payload in zip(offsets[:intact].tolist(), PAYLOADS, strict=False):
            assert bytes(file.read(offset)) == payload
        assert len(file.headers(offsets[:intact]).flags) == intact
        for offset in offsets[intact:].tolist():
            message = rf"cut\.rec, offset {offset}: .* {size} bytes"
            with pytest.raises(RecordError, match=message):
                file.read(offset)
            with pytest.raises(RecordError, match=message):
                file.headers(np.array([offset]))
        if intact == len(offsets) or size <= offsets[intact]:
            assert len(file.scan()) == intact  # without an index this is a whole file
        else:
            with pytest.raises(RecordError, match=rf"offset {offsets[intact]}: .* {size} bytes"):
                file.scan()


@pytest.mark.parametrize("offset", [-4, 2, 4, 1 << 40])
def test_an_offset_where_no_record_starts_is_refused(path: Path, offset: int) -> None:
    file = RecordFile(path)
    with pytest.raises(RecordError, match=f"key 9, offset {offset}"):
        file.read(offset, 9)
    with pytest.raises(RecordError, match=f"key 9, offset {offset}"):
        file.headers(np.array([offset]), range(9, 10))


def test_a_damaged_magic_is_refused_by_name(path: Path) -> None:
    content = bytearray(path.read_bytes())
    offsets = RecordFile(path).scan()
    content[offsets[1]] ^= 1
    path.write_bytes(content)
    file = RecordFile(path)
    for action in (lambda: file.read(int(offsets[1])), file.scan, lambda: file.headers(offsets)):
        with pytest.raises(RecordError, match=rf"offset {offsets[1]}.*0xced7230b.*0xced7230a"):
            action()


@pytest.mark.parametrize("flags", [(2,), (3,), (1, 1), (1, 0), (1, 2, 1), (7,)])
def test_parts_out_of_order_are_refused(flags: tuple[int, ...], tmp_path: Path) -> None:
    (tmp_path / "x.rec").write_bytes(b"".join(part(flag, b"abcd") for flag in flags))
    with pytest.raises(RecordError, match=rf"offset 0: .* flag {flags[-1]}"):
        RecordFile(tmp_path / "x.rec").scan()


def test_a_chain_of_parts_without_end_is_refused_early(tmp_path: Path) -> None:
    (tmp_path / "x.rec").write_bytes(part(1, b"") + part(2, b"") * 3_000_000)
    file = RecordFile(tmp_path / "x.rec")
    for action in (lambda: file.read(0, 7), file.scan, lambda: file.headers(np.array([0]))):
        with pytest.raises(RecordError, match=rf"offset 0: .* {MAX_PARTS + 1} parts"):
            action()


def test_a_chain_longer_than_a_record_is_refused(tmp_path: Path) -> None:
    size = SIZE_MASK - 8
    with (tmp_path / "x.rec").open("wb") as file:
        for flag in (1, 2, 2, 2):
            file.write(MAGIC_BYTES + struct.pack("<I", flag << 29 | size))
            file.seek(size + -size % 4, 1)  # a hole in the file
        file.write(part(3, b"abcd"))
    with pytest.raises(RecordError, match=rf"offset 0: .* 2 parts .* {2 * size + 4} bytes"):
        RecordFile(tmp_path / "x.rec").read(0)


def test_headers_of_large_split_records_are_read_without_joining_them(tmp_path: Path) -> None:
    start = pack_record([5, MAGIC_AS_LABEL, 6], 9, b"")  # cut in the middle of its labels
    with (tmp_path / "x.rec").open("wb") as rec:
        rec.write(part(1, start[:28]) + part(2, start[32:]))
        rec.write(MAGIC_BYTES + struct.pack("<I", 3 << 29 | 400_000_000))
        rec.truncate(rec.tell() + 400_000_000)
    file = RecordFile(tmp_path / "x.rec")
    tracemalloc.start()
    headers = file.headers(np.zeros(20, np.int64))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000
    assert (headers.image_sizes == 400_000_004).all()
    np.testing.assert_array_equal(headers.labels[0], np.array([5, MAGIC_AS_LABEL], np.float32))
    assert (headers.ids == 9).all()


@pytest.mark.parametrize("flag", [0, 2, 2**32 - 1])
def test_a_header_that_claims_more_labels_than_there_are_bytes(flag: int, tmp_path: Path) -> None:
    with RecordWriter(tmp_path / "x.rec") as writer:
        writer.write(0, struct.pack("<IfQQ", flag, 0, 0, 0)[: 24 if flag else 23])
    headers = RecordFile(tmp_path / "x.rec").headers(np.array([0]))
    assert headers.image_sizes[0] < 0


@pytest.mark.parametrize(
    ("content", "values"),
    [
        (LFS_POINTER, r"268,322,544.*git lfs pull"),
        (b"", ""),
        (b"PK\x03\x04 a zip archive", r"b'PK"),
        (b"\n", r"b'\\n'"),
        (None, ""),
    ],
)
def test_a_file_that_is_not_recordio_is_refused(
    content: bytes | None, values: str, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / "train.rec").write_bytes(content)
    with pytest.raises(RecordError, match=rf"train\.rec.*{values}"):
        RecordFile(tmp_path / "train.rec")


def _send_first_payload(file: RecordFile, connection: Connection) -> None:
    connection.send(bytes(file.read(0)))


def test_a_forked_process_reads_the_file(path: Path) -> None:
    file = RecordFile(path)
    file.read(0)
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe(duplex=False)
    worker = context.Process(target=_send_first_payload, args=(file, there))
    worker.start()
    assert here.poll(60)
    assert here.recv() == PAYLOADS[0]
    worker.join(10)
    assert worker.exitcode == 0
