import os
import random
import re
import struct
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

import data.tools.check.run
import data.tools.check.scan
from data.records.format import MAGIC, MAGIC_BYTES, PART, pack_record
from data.records.reader import RecordFile
from data.tools.check.run import check_records
from data.tools.check.scan import DamagedFile
from tests.data.tools.check.helpers import check, encoded, flip_magic, found, keys_of, write


def numbers(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", text)]


def lengthen(content: bytearray, start: int) -> None:
    (size,) = struct.unpack_from("<I", content, start + 4)
    struct.pack_into("<I", content, start + 4, size + 64)


def lengthen_beyond_the_file(content: bytearray, start: int) -> None:
    content[start + 7] |= 0x1F


def continue_nothing(content: bytearray, start: int) -> None:
    content[start + 7] |= 2 << 5


def begin_parts(content: bytearray, start: int) -> None:
    content[start + 7] |= 1 << 5


def zero(content: bytearray, start: int) -> None:
    content[start : start + 40] = bytes(40)


@pytest.mark.slow
@pytest.mark.usefixtures("chunk")
@pytest.mark.parametrize(
    ("damage", "found_there"),
    [
        (flip_magic, r" b'\\x0b"),
        (lengthen, r" \d+"),
        (lengthen_beyond_the_file, r" \d+.* \d+"),
        (continue_nothing, " flag 2 "),
        (begin_parts, ""),
        (zero, r" b'\\x00\\x00"),
    ],
)
@pytest.mark.parametrize("key", [1, 7, 12])
def test_it_goes_on_past_a_damaged_record(
    faces: Path, damage: Callable[[bytearray, int], None], found_there: str, key: int
) -> None:
    offsets = RecordFile(faces).scan()
    content = bytearray(faces.read_bytes())
    damage(content, int(offsets[key - 1]))
    faces.write_bytes(content)
    result = check(faces)
    findings = found(result)
    assert set(findings) == {"damage", "index_lost"}
    assert not result.clean
    assert (result.records, result.images) == (16, 11)
    (place,) = findings["damage"]["places"]
    assert place["offset"] == offsets[key - 1]
    stop = int(offsets[key])
    fault, _, extent = place["detail"].rpartition("; ")
    assert re.search(found_there, fault)
    assert numbers(extent) == [stop - place["offset"], stop]
    assert keys_of(findings["index_lost"]) == [key]


@pytest.mark.usefixtures("chunk")
def test_a_shortened_length_leaves_bytes_over(faces: Path) -> None:
    offsets = RecordFile(faces).scan()
    content = bytearray(faces.read_bytes())
    content[offsets[4] + 5] -= 1  # 256 bytes
    faces.write_bytes(content)
    findings = found(check(faces))
    (place,) = findings["damage"]["places"]
    assert numbers(place["detail"])[-2:] == [256, offsets[5]]
    assert keys_of(findings["undecodable"]) == [5]
    assert set(findings) == {"damage", "undecodable"}


@pytest.mark.usefixtures("chunk")
@pytest.mark.parametrize("cut", [1, 5, 700])
def test_a_truncated_file_keeps_what_is_whole(faces: Path, cut: int) -> None:
    offsets = RecordFile(faces).scan()
    size = int(offsets[8]) - cut
    faces.write_bytes(faces.read_bytes()[:size])
    result = check(faces)
    findings = found(result)
    padding = -(int.from_bytes(faces.read_bytes()[offsets[7] + 4 :][:3], "little")) % 4
    whole = 8 if cut <= padding else 7
    assert result.records == whole
    assert findings["index_outside"]["count"] + whole + (8 - whole) == 17
    if whole == 7:
        assert size in numbers(findings["damage"]["places"][0]["detail"])


@pytest.mark.usefixtures("chunk")
def test_a_hole_and_garbage_cost_only_what_they_cover(faces: Path) -> None:
    offsets = RecordFile(faces).scan()
    content = bytearray(faces.read_bytes())
    content[offsets[2] : offsets[6]] = bytes(int(offsets[6] - offsets[2]))
    content[offsets[9] : offsets[9]] = b"garbage that is not recordio" * 30
    faces.write_bytes(content)
    result = check(faces)
    findings = found(result)
    places = findings["damage"]["places"]
    assert [place["offset"] for place in places] == [offsets[2], offsets[9]]
    assert offsets[6] - offsets[2] in numbers(places[0]["detail"])
    assert 840 in numbers(places[1]["detail"])
    assert result.records == 13
    assert findings["index_lost"]["count"] == 5  # four in the hole, one where garbage is now
    assert findings["index_elsewhere"]["count"] == 7
    assert findings["index_missing"]["count"] == 8


@pytest.mark.usefixtures("chunk")
def test_records_in_parts_and_with_an_unescaped_magic_are_whole(tmp_path: Path) -> None:
    image = encoded(kind="PNG")
    split = image + b"x" * (-len(image) % 4) + (MAGIC_BYTES + b"abcd") * 700 + MAGIC_BYTES
    path = write(tmp_path / "some.rec", [(0, split), (1, encoded()), (2, split)])
    assert RecordFile(path).read(0)[24:] == split
    # As a writer that does not split there would write it; readers go by the length.
    inner = pack_record(9, 9, b"x" * 16)
    inner = MAGIC_BYTES + struct.pack("<I", len(inner)) + inner
    unescaped = pack_record(3, 3, image + b"x" * (-len(image) % 4) + inner * 50)
    with path.open("ab") as file:
        file.write(MAGIC_BYTES + struct.pack("<I", len(unescaped)) + unescaped)
    with path.open("ab") as file:
        last = file.tell()
        payload = pack_record(4, 4, encoded(seed=5))
        file.write(MAGIC_BYTES + struct.pack("<I", len(payload)) + payload)
    path.with_suffix(".idx").unlink()
    result = check(path)
    findings = found(result)
    assert (result.records, result.images, result.identities) == (5, 5, 5)
    assert set(findings) == {"no_index", "label_noise"}
    assert keys_of(findings["label_noise"]) == [0, 2]
    assert RecordFile(path).scan()[-1] == last


def test_a_record_larger_than_a_chunk_is_whole_before_garbage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data.tools.check.run, "CHUNK", 40_000)
    path = write(tmp_path / "x.rec", [(0, b"x" * 600_001), (1, encoded())])
    content = path.read_bytes()
    second = int(RecordFile(path).scan()[1])
    path.write_bytes(content[:second] + b"garbage!" + content[second:])
    path.with_suffix(".idx").unlink()
    result = check(path, decode=False)
    assert result.records == 2
    assert [place["offset"] for place in found(result)["damage"]["places"]] == [second]


def test_no_single_flipped_byte_of_framing_costs_more_than_its_record(faces: Path) -> None:
    content = faces.read_bytes()
    for row, start in enumerate(RecordFile(faces).scan().tolist()):
        for place in range(8):
            broken = bytearray(content)
            broken[start + place] ^= 0x44
            faces.write_bytes(broken)
            result = check(faces, decode=False)
            assert result.records >= 16, f"record {row}, byte {place}"
            assert not result.clean, f"record {row}, byte {place}"


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(25))
def test_any_damage_is_found_whatever_the_chunks(
    faces: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(seed)
    content = bytearray(faces.read_bytes())
    for _ in range(rng.randrange(1, 5)):
        at, length = rng.randrange(4, len(content)), rng.randrange(1, 900)
        aligned = at // 4 * 4
        part = PART.pack(MAGIC, rng.randrange(8) << 29 | rng.randrange(1 << rng.randrange(1, 29)))
        for start, stop, new in (
            [(at, at + 1, rng.randbytes(1))],
            [(at, at + length, b"")],
            [(at, at, rng.randbytes(length))],
            [(aligned, aligned + 400, MAGIC_BYTES * 100)],
            [(aligned, aligned + 8, part)],
        )[rng.randrange(5)]:
            content[start:stop] = new
    faces.write_bytes(content)
    whole = check(faces)
    monkeypatch.setattr(data.tools.check.run, "CHUNK", 512)
    for workers in (1, 3):
        in_chunks = check_records([faces], workers=workers)
        assert in_chunks.findings.to_list() == whole.findings.to_list()
        assert (in_chunks.records, in_chunks.images) == (whole.records, whole.images)


@pytest.mark.usefixtures("chunk")
@pytest.mark.parametrize("page", [1, 2, 4])
def test_pages_that_the_disk_cannot_read_cost_the_records_on_them(
    faces: Path, page: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, offsets = os.preadv, RecordFile(faces).scan()
    start, stop = page * 4096, (page + 1) * 4096
    assert stop < faces.stat().st_size

    def preadv(file: int, into: list[memoryview], at: int) -> int:
        if at < stop and start < at + len(into[0]):
            raise OSError(5, "Input/output error")
        return real(file, into, at)

    monkeypatch.setattr(os, "preadv", preadv)
    result = check(faces)
    (place,) = found(result)["unreadable"]["places"]
    assert place["offset"] == start
    assert numbers(place["detail"]) == [4096]
    ends = np.append(offsets[1:], faces.stat().st_size)
    lost = np.flatnonzero((offsets < stop) & (ends > start)).tolist()
    assert result.records == len(offsets) - len(lost)
    assert keys_of(found(result)["index_lost"]) == [row + 1 for row in lost]
    assert [place["offset"] for place in found(result)["damage"]["places"]] == [offsets[lost[0]]]


def test_a_file_that_shrinks_during_the_check_is_not_touched_where_it_ended(
    faces: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Reading a mapping beyond the end of its file ends the process, as a bad sector would.
    monkeypatch.setattr(data.tools.check.scan, "_READ_BYTES", 4096)
    offsets = RecordFile(faces).scan()
    file = DamagedFile(faces)
    os.truncate(faces, int(offsets[5]))
    whole = np.concatenate(list(file.whole_records(5000)))
    last_page = int(offsets[5]) // 4096 * 4096
    assert file.unreadable[0] == (last_page, last_page + 4096)
    assert whole.tolist() == [at for at, end in pairwise(offsets.tolist()) if end <= last_page]
