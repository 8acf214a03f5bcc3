import random
import re
import struct
from pathlib import Path

import numpy as np
import pytest

from data.files import WriteError
from data.records.format import MAGIC_BYTES, unpack_record
from data.records.reader import RecordFile
from data.records.writer import RecordWriter, WriterPosition, write_face_records

RECORDS = Path(__file__).parents[2] / "fixtures" / "recordio"
WRITTEN_BY_MXNET = sorted(path.parent for path in RECORDS.glob("*/train.rec"))


def key_by_offset(folder: Path) -> dict[int, int]:
    lines = (folder / "train.idx").read_text().splitlines()
    return {int(offset): int(key) for key, offset in (line.split("\t") for line in lines)}


def part(flag: int, content: bytes) -> bytes:
    return MAGIC_BYTES + struct.pack("<I", flag << 29 | len(content)) + content


@pytest.mark.parametrize("folder", WRITTEN_BY_MXNET, ids=lambda path: path.name)
def test_files_of_mxnet_are_rebuilt_byte_for_byte_from_their_records(
    folder: Path, tmp_path: Path
) -> None:
    file = RecordFile(folder / "train.rec")
    keys = key_by_offset(folder)
    with RecordWriter(tmp_path / "train.rec") as writer:
        for offset in file.scan().tolist():
            assert writer.write(keys[offset], file.read(offset)) == offset
    for name in ("train.rec", "train.idx"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes(), name
    assert len(list(tmp_path.iterdir())) == 2


def test_the_identity_layout_has_the_records_that_mxnet_wrote(tmp_path: Path) -> None:
    theirs = RecordFile(RECORDS / "insightface_header" / "train.rec")
    expected = {
        key: bytes(theirs.read(offset))
        for offset, key in key_by_offset(RECORDS / "insightface_header").items()
    }
    images = (unpack_record(expected[key]) for key in range(1, 25))
    counts = write_face_records(tmp_path, ((int(r.labels[0]), r.image) for r in images))

    ours = RecordFile(tmp_path / "train.rec")
    assert counts == (24, 6)
    assert expected == {
        key: bytes(ours.read(offset)) for offset, key in key_by_offset(tmp_path).items()
    }
    assert (tmp_path / "property").read_text() == "6,112,112\n"


@pytest.mark.parametrize(
    ("payload", "written"),
    [
        (b"", part(0, b"")),
        (b"abcde", part(0, b"abcde") + bytes(3)),
        (b"a" + MAGIC_BYTES + b"xyz", part(0, b"a" + MAGIC_BYTES + b"xyz")),
        (MAGIC_BYTES, part(1, b"") + part(3, b"")),
        (b"abcd" + MAGIC_BYTES, part(1, b"abcd") + part(3, b"")),
        (b"abcd" + MAGIC_BYTES + b"e", part(1, b"abcd") + part(3, b"e") + bytes(3)),
        (MAGIC_BYTES * 3, part(1, b"") + part(2, b"") * 2 + part(3, b"")),
        # The first magic crosses a multiple of 4, the second starts at one.
        (b"ab" + MAGIC_BYTES + b"cd" + MAGIC_BYTES, None),
    ],
)
def test_payloads_are_split_only_where_the_magic_is_at_a_multiple_of_4(
    payload: bytes, written: bytes | None, tmp_path: Path
) -> None:
    with RecordWriter(tmp_path / "x.rec") as writer:
        writer.write(5, payload)
    expected = written or part(1, b"ab" + MAGIC_BYTES + b"cd") + part(3, b"")
    assert (tmp_path / "x.rec").read_bytes() == expected
    assert (tmp_path / "x.idx").read_bytes() == b"5\t0\n"
    assert bytes(RecordFile(tmp_path / "x.rec").read(0)) == payload


def test_payloads_full_of_magics_are_read_back(tmp_path: Path) -> None:
    rng = random.Random(3)
    pieces = [MAGIC_BYTES, b"\x0a\x23", b"\xd7\xce", b"a", b"bcd", b"efgh"]
    payloads = [b"".join(rng.choices(pieces, k=rng.randrange(12))) for _ in range(500)]
    with RecordWriter(tmp_path / "x.rec") as writer:
        offsets = [writer.write(key, payload) for key, payload in enumerate(payloads)]
    file = RecordFile(tmp_path / "x.rec")
    assert [bytes(file.read(offset)) for offset in offsets] == payloads
    assert file.scan().tolist() == offsets
    # Every magic at a multiple of 4 starts a part, so readers may search for it.
    words = np.frombuffer((tmp_path / "x.rec").read_bytes(), "<u4")
    parts = sum(1 + sum(p[i : i + 4] == MAGIC_BYTES for i in range(0, len(p), 4)) for p in payloads)
    assert (words == 0xCED7230A).sum() == parts


def test_a_failed_write_leaves_the_older_file(tmp_path: Path) -> None:
    def write() -> None:
        with RecordWriter(tmp_path / "x.rec") as writer:
            writer.write(0, b"some")
            raise KeyError("from the caller")

    (tmp_path / "x.rec").write_bytes(b"older")
    with pytest.raises(KeyError):
        write()
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"older"]


def test_a_repeated_key_is_refused_when_the_file_is_closed(tmp_path: Path) -> None:
    def write() -> None:
        with RecordWriter(tmp_path / "x.rec") as writer:
            for key in (3, 1, 3):
                writer.write(key, b"")

    with pytest.raises(ValueError, match=r"x\.rec: key 3 "):
        write()
    assert not list(tmp_path.iterdir())


def test_a_negative_key_is_refused(tmp_path: Path) -> None:
    with (
        pytest.raises(ValueError, match="key -1"),
        RecordWriter(tmp_path / "x.rec") as writer,
    ):
        writer.write(-1, b"")


@pytest.mark.parametrize("labels", [[0, 1, 0], [0, 2], [1], []])
def test_classes_out_of_order_or_missing_are_refused(labels: list[int], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=re.escape(str(tmp_path))):
        write_face_records(tmp_path, ((label, b"x") for label in labels))
    assert not list(tmp_path.iterdir())


def test_a_resumed_file_has_the_same_bytes(tmp_path: Path) -> None:
    payloads = [bytes([key]) * (key * 97 % 300) + MAGIC_BYTES * (key % 3) for key in range(200)]
    keys = [*range(100, 200), *range(100)]
    with RecordWriter(tmp_path / "whole.rec") as writer:
        for key, payload in zip(keys, payloads, strict=True):
            writer.write(key, payload)

    def interrupted() -> None:
        with RecordWriter(tmp_path / "x.rec") as writer:
            for key, payload in zip(keys[:120], payloads, strict=False):
                writer.write(key, payload)
            positions.append(writer.checkpoint())
            writer.write(keys[120], bytes(1 << 20))  # lost, and longer than everything after it
            raise KeyboardInterrupt

    positions: list[WriterPosition] = []
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not (tmp_path / "x.rec").exists()
    with RecordWriter(tmp_path / "x.rec", resume=positions[0]) as writer:
        assert writer.offset == positions[0].rec_bytes
        for key, payload in zip(keys[120:], payloads[120:], strict=True):
            writer.write(key, payload)
    for suffix in (".rec", ".idx"):
        ours = (tmp_path / "x.rec").with_suffix(suffix).read_bytes()
        assert ours == (tmp_path / "whole.rec").with_suffix(suffix).read_bytes()
    assert len(list(tmp_path.iterdir())) == 4


@pytest.mark.parametrize("repeated", [2, 4, 8])
def test_a_resumed_writer_knows_the_earlier_keys(repeated: int, tmp_path: Path) -> None:
    def write() -> None:
        with RecordWriter(tmp_path / "x.rec") as writer:
            for key in (1, 2, 3, 7, 8, 4):
                writer.write(key, b"some")
            position = writer.checkpoint()
        for suffix in (".rec", ".idx"):
            path = (tmp_path / "x.rec").with_suffix(suffix)
            path.replace(path.with_name(path.name + ".partial"))
        with RecordWriter(tmp_path / "x.rec", resume=position) as writer:
            writer.write(5, b"fine")
            writer.write(repeated, b"again")

    with pytest.raises(ValueError, match=rf"x\.rec: key {repeated} "):
        write()
    assert not list(tmp_path.iterdir())


def test_partial_files_shorter_than_the_position_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.rec.partial").write_bytes(b"short")
    (tmp_path / "x.idx.partial").write_bytes(b"0\t0\n")
    with pytest.raises(WriteError, match=r"x\.rec\.partial .* 5 bytes.* 12 "):
        RecordWriter(tmp_path / "x.rec", resume=WriterPosition(12, 4))


@pytest.mark.parametrize("index", [b"0\t0\xff", b"0\tabc"])
def test_a_partial_index_that_is_damaged_is_refused(index: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.rec.partial").write_bytes(bytes(12))
    (tmp_path / "x.idx.partial").write_bytes(index)
    with pytest.raises(WriteError, match=r"x\.idx\.partial"):
        RecordWriter(tmp_path / "x.rec", resume=WriterPosition(12, len(index)))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.parametrize("size", [10, 1 << 20])
@pytest.mark.parametrize("full", ["rec", "idx"])
def test_a_full_disk_is_named_and_leaves_the_older_file(
    size: int, full: str, tmp_path: Path
) -> None:
    def write() -> None:
        with RecordWriter(tmp_path / "x.rec") as writer:
            writer.write(0, bytes(size))

    (tmp_path / "x.rec").write_bytes(b"older")
    (tmp_path / f"x.{full}.partial").symlink_to("/dev/full")
    with pytest.raises(WriteError, match=r"x\.rec .*No space left"):
        write()
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"older"]


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(WriteError, match=r"no/x\.rec .*No such file"):
        RecordWriter(tmp_path / "no" / "x.rec")


def test_a_payload_may_change_after_it_was_written(tmp_path: Path) -> None:
    buffer = bytearray(b"first")
    with RecordWriter(tmp_path / "x.rec") as writer:
        writer.write(0, memoryview(buffer))
        buffer[:] = b"other"
    assert bytes(RecordFile(tmp_path / "x.rec").read(0)) == b"first"
