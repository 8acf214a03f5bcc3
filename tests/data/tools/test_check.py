import os
import random
import re
import struct
from collections.abc import Callable
from io import BytesIO
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import data.tools.check.file
import data.tools.check.run
from data.records.format import MAGIC, MAGIC_BYTES, PART, RecordError, pack_record
from data.records.reader import RecordFile
from data.records.writer import RecordWriter, write_face_records
from data.tools.check.run import CheckResult, check_records
from tests.conftest import picture

Finding = dict[str, Any]


def check(path: Path, **options: Any) -> CheckResult:
    return check_records([path], workers=1, **options)


def found(result: CheckResult) -> dict[str, Finding]:
    return {finding["kind"]: finding for finding in result.findings.to_list()}


def keys_of(finding: Finding) -> list[int]:
    return [place["key"] for place in finding["places"]]


@pytest.fixture
def faces(tmp_path: Path) -> Path:
    """Return a `train.rec` of 4 identities with 3 images each: keys 1 … 12, then 5 more."""
    images = ((identity, picture(identity, number)) for identity in range(4) for number in range(3))
    write_face_records(tmp_path, images, image_size=32)
    return tmp_path / "train.rec"


def write(path: Path, images: list[tuple[float, bytes]]) -> Path:
    """Write (label, image) with the keys 0, 1 … and no header record."""
    with RecordWriter(path) as writer:
        for key, (label, image) in enumerate(images):
            writer.write(key, pack_record(label, key, image))
    return path


def encoded(size: tuple[int, int] = (32, 32), kind: str = "JPEG", seed: int = 99) -> bytes:
    stream = BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


@pytest.fixture(params=[64, 1000 * 4, 1 << 23], ids=["64 bytes", "4 kB", "whole"])
def stretch(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Cut files into stretches of so many bytes: what is found must not depend on it."""
    monkeypatch.setattr(data.tools.check.file, "STRETCH", request.param)
    return int(request.param)


@pytest.mark.usefixtures("stretch")
@pytest.mark.parametrize("decode", [True, False])
def test_nothing_is_found_in_a_clean_file(faces: Path, decode: bool) -> None:
    result = check(faces, decode=decode)
    assert (result.records, result.images, result.identities) == (17, 12, 4)
    assert result.size == faces.stat().st_size
    assert (result.clean, result.findings.to_list()) == (True, [])
    assert "17 records, 12 images of 4 identities" in result.text()
    assert result.text().endswith("Nothing was found.")


def flip_magic(content: bytearray, start: int) -> None:
    content[start] ^= 1


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


@pytest.mark.usefixtures("stretch")
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (flip_magic, r"no record starts here: found b'\\x0b"),
        (lengthen, "the record should end at .*, and the next one starts before"),
        (lengthen_beyond_the_file, "the record should end at .*, and the file ends at"),
        (continue_nothing, "a part with flag 2 that continues no record"),
        (begin_parts, "a record in parts of which not all are here"),
        (zero, r"no record starts here: found b'\\x00\\x00"),
    ],
)
@pytest.mark.parametrize("key", [1, 7, 12])
def test_it_goes_on_past_a_damaged_record(
    faces: Path, damage: Callable[[bytearray, int], None], message: str, key: int
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
    assert place["detail"].endswith(
        f"{stop - place['offset']} bytes up to the next record at {stop}"
    )
    assert re.search(message, place["detail"])
    assert keys_of(findings["index_lost"]) == [key]


@pytest.mark.usefixtures("stretch")
def test_a_shortened_length_leaves_bytes_over(faces: Path) -> None:
    offsets = RecordFile(faces).scan()
    content = bytearray(faces.read_bytes())
    content[offsets[4] + 5] -= 1  # 256 bytes
    faces.write_bytes(content)
    findings = found(check(faces))
    assert findings["damage"]["places"][0]["detail"].endswith(
        f"256 bytes up to the next record at {offsets[5]}"
    )
    assert keys_of(findings["undecodable"]) == [5]
    assert set(findings) == {"damage", "undecodable"}


@pytest.mark.usefixtures("stretch")
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
        assert f"and the file ends at {size}" in findings["damage"]["places"][0]["detail"]


@pytest.mark.usefixtures("stretch")
def test_a_hole_and_garbage_cost_what_they_cover(faces: Path) -> None:
    offsets = RecordFile(faces).scan()
    content = bytearray(faces.read_bytes())
    content[offsets[2] : offsets[6]] = bytes(int(offsets[6] - offsets[2]))
    content[offsets[9] : offsets[9]] = b"garbage that is not recordio" * 30
    faces.write_bytes(content)
    result = check(faces)
    findings = found(result)
    places = findings["damage"]["places"]
    assert [place["offset"] for place in places] == [offsets[2], offsets[9]]
    assert f"{offsets[6] - offsets[2]} bytes up to" in places[0]["detail"]
    assert "840 bytes up to" in places[1]["detail"]
    assert result.records == 13
    assert findings["index_lost"]["count"] == 5  # four in the hole, one where garbage is now
    assert findings["index_elsewhere"]["count"] == 7
    assert findings["index_missing"]["count"] == 8


@pytest.mark.usefixtures("stretch")
def test_records_in_parts_and_with_a_magic_left_in_are_whole(tmp_path: Path) -> None:
    image = encoded(kind="PNG")
    split = image + b"x" * (-len(image) % 4) + (MAGIC_BYTES + b"abcd") * 700 + MAGIC_BYTES
    path = write(tmp_path / "some.rec", [(0, split), (1, encoded()), (2, split)])
    assert RecordFile(path).read(0)[24:] == split
    # As a writer that does not cut would have it; its own reader goes by the length.
    inner = pack_record(9, 9, b"x" * 16)
    inner = MAGIC_BYTES + struct.pack("<I", len(inner)) + inner
    left_in = pack_record(3, 3, image + b"x" * (-len(image) % 4) + inner * 50)
    with path.open("ab") as file:
        file.write(MAGIC_BYTES + struct.pack("<I", len(left_in)) + left_in)
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


def test_a_record_larger_than_what_is_read_ahead_is_whole_before_garbage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data.tools.check.file, "STRETCH", 40_000)
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


@pytest.mark.parametrize("seed", range(25))
def test_any_damage_is_found_the_same_however_the_file_is_cut(
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
    for module in (data.tools.check.file, data.tools.check.run):
        monkeypatch.setattr(module, "STRETCH", 512)
    for workers in (1, 3):
        cut = check_records([faces], workers=workers)
        assert cut.findings.to_list() == whole.findings.to_list()
        assert (cut.records, cut.images) == (whole.records, whole.images)


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
    for module in (data.tools.check.file, data.tools.check.run):
        monkeypatch.setattr(module, "STRETCH", 1024)
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


def test_what_the_disk_refuses_is_named(faces: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, bad = os.preadv, int(RecordFile(faces).scan()[5]) + 100
    assert bad > 4096

    def preadv(file: int, into: list[memoryview], start: int) -> int:
        if start <= bad < start + len(into[0]):
            raise OSError(5, "Input/output error")
        return real(file, into, start)

    monkeypatch.setattr(os, "preadv", preadv)
    result = check(faces)
    (place,) = found(result)["unreadable"]["places"]
    assert place["offset"] == bad // 4096 * 4096
    assert "4096 bytes cannot be read" in place["detail"]
    assert 10 <= result.records < 17


# The index


def rewrite_index(faces: Path, change: Callable[[list[str]], list[str]]) -> dict[str, Finding]:
    path = faces.with_suffix(".idx")
    path.write_text("".join(f"{line}\n" for line in change(path.read_text().splitlines())))
    return found(check(faces, decode=False))


def test_lines_that_are_no_entries(faces: Path) -> None:
    findings = rewrite_index(faces, lambda lines: [lines[0], "7 12", *lines[1:], "-1\t0", ""])
    assert set(findings) == {"index_line"}
    places = findings["index_line"]["places"]
    assert [(place["line"], place["detail"]) for place in places] == [
        (2, "found b'7 12'"), (19, "found b'-1\\t0'"), (20, "found b''"),
    ]  # fmt: skip


def test_an_empty_index(faces: Path) -> None:
    findings = rewrite_index(faces, lambda _: [])
    assert findings["index_line"]["places"][0]["detail"] == "it names no records"
    assert findings["index_missing"]["count"] == 17


def test_a_key_twice_and_a_record_twice(faces: Path) -> None:
    findings = rewrite_index(
        faces, lambda lines: [*lines, lines[2].replace("3\t", "99\t"), lines[4]]
    )
    (again,) = findings["index_repeated_key"]["places"]
    assert (again["key"], again["line"]) == (5, 19)
    assert keys_of(findings["index_repeated_offset"]) == [3, 5]


def test_entries_that_lead_nowhere(faces: Path) -> None:
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


def test_ids_that_nobody_set_are_no_finding(tmp_path: Path) -> None:
    with RecordWriter(tmp_path / "x.rec") as writer:
        for key in range(5):
            writer.write(key + 10, pack_record(key, 0, encoded(seed=key)))
    assert found(check(tmp_path / "x.rec")) == {}


def test_a_file_without_an_index_is_clean_with_a_note(faces: Path) -> None:
    faces.with_suffix(".idx").unlink()
    result = check(faces)
    assert set(found(result)) == {"no_index"}
    assert result.clean


# Header record, ranges, property


def test_a_header_record_that_promises_more(faces: Path) -> None:
    offset = int(RecordFile(faces).scan()[-1])
    content = bytearray(faces.read_bytes())
    struct.pack_into("<f", content, offset + 8 + 24, 15.0)
    faces.write_bytes(content)
    findings = found(check(faces))
    assert keys_of(findings["no_image"]) == [13, 14]  # ranges, where images are promised
    struct.pack_into("<ff", content, offset + 8 + 24, 13.0, 15.0)
    faces.write_bytes(content)
    findings = found(check(faces))
    assert keys_of(findings["beyond_end"]) == [15, 16]
    assert keys_of(findings["range"]) == list(range(7, 13))


@pytest.mark.parametrize(
    ("labels", "keys"),
    [
        ((4.0, 8.0), [14, 7]),  # one image of the next identity, which is in its range, too
        ((4.0, 6.0), [6]),
        ((0.0, 4.0), [14, 4, 5, 6]),
        ((float("nan"), 7.0), [14, 4, 5, 6]),
        ((4.0, 99.0), [14, 4, 5, 6]),
    ],
)
def test_key_ranges_that_do_not_fit(
    faces: Path, labels: tuple[float, float], keys: list[int]
) -> None:
    offset = int(RecordFile(faces).scan()[13])
    content = bytearray(faces.read_bytes())
    struct.pack_into("<ff", content, offset + 8 + 24, *labels)
    faces.write_bytes(content)
    findings = found(check(faces))
    assert keys_of(findings["range"]) == keys
    assert set(findings) == {"range"}


def test_a_lost_header_record_is_not_blamed_on_the_ranges(faces: Path) -> None:
    content = bytearray(faces.read_bytes())
    flip_magic(content, int(RecordFile(faces).scan()[-1]))
    faces.write_bytes(content)
    assert set(found(check(faces))) == {"damage", "index_lost"}


def test_a_property_file_with_another_number(faces: Path) -> None:
    faces.with_name("property").write_text("5,112,112\n")
    (place,) = found(check(faces))["property"]["places"]
    assert place["detail"] == "found '5,112,112', expected 4,..."


# Labels


@pytest.mark.parametrize(
    ("label", "text"),
    [
        (0.5, "its label is 0.5"),
        (-1.0, "its label is -1"),
        (float("nan"), "its label is nan"),
        (float("inf"), "its label is inf, where labels"),
        (2.0**24, "its label is 16777216, where labels stored as float32 run into each other"),
    ],
)
def test_labels_that_are_no_class(tmp_path: Path, label: float, text: str) -> None:
    images = [(0.0, encoded(seed=1)), (label, encoded(seed=2)), (1.0, encoded(seed=3))]
    result = check(write(tmp_path / "x.rec", images))
    (place,) = found(result)["label"]["places"]
    assert place["key"] == 1
    assert place["detail"].startswith(text)
    assert (result.images, result.identities, result.clean) == (2, 2, False)


def test_gaps_in_the_labels_are_given_in_runs(tmp_path: Path) -> None:
    images = [(label, encoded(seed=int(label))) for label in (2.0, 3.0, 5.0, 9.0)]
    result = check(write(tmp_path / "x.rec", images))
    finding = found(result)["label_gap"]
    assert finding["count"] == 6
    assert [place["detail"] for place in finding["places"]] == [
        "labels 0 to 1 of 0 to 9", "label 4 of 0 to 9", "labels 6 to 8 of 0 to 9",
    ]  # fmt: skip


def test_labels_are_judged_over_all_files(tmp_path: Path) -> None:
    write(tmp_path / "a.rec", [(0, encoded(seed=1)), (2, encoded(seed=2))])
    write(tmp_path / "b.rec", [(1, encoded(seed=3)), (3, encoded(seed=2))])
    result = check_records([tmp_path / "a.rec", tmp_path / "b.rec"], workers=1)
    assert (result.records, result.identities) == (4, 4)
    findings = found(result)
    assert set(findings) == {"label_noise"}
    first, second = findings["label_noise"]["places"]
    assert (first["file"], first["key"]) == (str(tmp_path / "a.rec"), 1)
    assert first["detail"] == (
        f"label 2, the same image as key 1 of {tmp_path / 'b.rec'}; their labels are 2, 3"
    )
    assert (second["file"], second["key"]) == (str(tmp_path / "b.rec"), 1)


# Images


def bomb() -> bytes:
    image = bytearray(encoded())
    at = image.index(b"\xff\xc0")
    image[at + 5 : at + 9] = struct.pack(">HH", 60_000, 60_000)
    return bytes(image)


@pytest.mark.parametrize(
    "image",
    [
        encoded()[:-200],
        encoded(kind="PNG")[:-30],
        encoded()[:40],
        b"\xff\xd8",
        b"no image",
        bomb(),
        b"\x89PNG\r\n\x1a\n",
    ],
    ids=["cut JPEG", "cut PNG", "JPEG start", "JPEG magic", "text", "bomb", "PNG magic"],
)
def test_images_that_cannot_be_decoded(tmp_path: Path, image: bytes) -> None:
    images = [(0.0, encoded(seed=1)), (0.0, image), (1.0, encoded(seed=3))]
    path = write(tmp_path / "x.rec", images)
    result = check(path)
    findings = found(result)
    assert keys_of(findings["undecodable"]) == [1]
    assert set(findings) == {"undecodable"}
    assert check(path, decode=False).clean


def test_records_without_an_image_or_a_header(tmp_path: Path) -> None:
    with RecordWriter(tmp_path / "x.rec") as writer:
        writer.write(0, pack_record(0, 0, encoded()))
        writer.write(1, pack_record(0, 1, b""))
        writer.write(2, b"")
        writer.write(3, pack_record([1, 2, 3], 3, b"")[:-1])
        writer.write(4, pack_record([1, 2, 3], 4, encoded(seed=5)))
    findings = found(check(tmp_path / "x.rec"))
    assert keys_of(findings["no_image"]) == [1]
    assert keys_of(findings["no_header"]) == [2, 3]
    assert set(findings) == {"no_image", "no_header"}


def test_odd_sizes(tmp_path: Path) -> None:
    images = [(0.0, encoded(seed=number)) for number in range(4)]
    images += [(0.0, encoded((32, 40))), (0.0, encoded((48, 48), "PNG"))]
    findings = found(check(write(tmp_path / "x.rec", images)))
    assert set(findings) == {"odd_size"}
    assert keys_of(findings["odd_size"]) == [4, 5]
    details = [place["detail"] for place in findings["odd_size"]["places"]]
    assert details == ["32x40 pixels, most are 32x32", "48x48 pixels, most are 32x32"]
    many = [(0.0, encoded((32, 30 + number))) for number in range(4)]
    result = check(write(tmp_path / "y.rec", many))
    assert set(found(result)) == {"many_sizes"}
    assert result.clean


@pytest.mark.parametrize("decode", [True, False])
def test_copies_of_one_identity_and_of_several(tmp_path: Path, decode: bool) -> None:
    one, two, three = (encoded(seed=seed) for seed in (1, 2, 3))
    images = [(0.0, one), (0.0, two), (0.0, one), (1.0, three), (0.0, one)]
    result = check(write(tmp_path / "x.rec", images), decode=decode)
    finding = found(result)["duplicate"]
    assert (finding["level"], finding["count"], result.clean) == ("note", 2, True)
    assert keys_of(finding) == [2, 4]
    assert finding["places"][0]["detail"] == "label 0, the same image as key 0"
    result = check(write(tmp_path / "y.rec", [*images, (1.0, two)]), decode=decode)
    finding = found(result)["label_noise"]
    assert (finding["level"], finding["count"], result.clean) == ("warning", 2, False)
    assert [(place["key"], place["detail"]) for place in finding["places"]] == [
        (1, "label 0, the same image as key 5; their labels are 0, 1"),
        (5, "label 1, the same image as key 1; their labels are 0, 1"),
    ]


def test_images_that_differ_in_one_byte_are_no_copies(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, 1000, np.uint8)
    images = [(0.0, image.tobytes())]
    for place in range(0, 1000, 7):
        changed = image.copy()
        changed[place] ^= 1
        images.append((0.0, changed.tobytes()))
    assert found(check(write(tmp_path / "x.rec", images), decode=False)) == {}


def test_many_findings_are_counted_and_few_are_shown(tmp_path: Path) -> None:
    path = write(tmp_path / "x.rec", [(0.0, b"no image %d" % number) for number in range(30)])
    result = check(path)
    assert found(result)["undecodable"]["count"] == 30
    text = result.text()
    assert "ERROR: images that cannot be decoded to the end: 30" in text
    assert text.count("x.rec, key") == 5
    assert "... and 25 more" in text
    assert "To do: replace these images" in text


# What is refused


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"PK\x03\x04" * 99, "is no RecordIO file: it starts with b'PK"),
        (b"x" + MAGIC_BYTES, "is no RecordIO file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 5\n", "git lfs pull"),
    ],
)
def test_what_is_no_record_file_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "x.rec").write_bytes(content)
    with pytest.raises(RecordError, match=rf"x\.rec.*{message}"):
        check(tmp_path / "x.rec")


def test_no_workers_are_refused(faces: Path) -> None:
    with pytest.raises(ValueError, match="workers is 0: expected at least 1"):
        check_records([faces], workers=0)
