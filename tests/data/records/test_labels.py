import logging
from pathlib import Path

import numpy as np
import pytest

from data.records.format import RecordError, pack_record
from data.records.index import RecordIndex, open_index
from data.records.labels import ImageTable, read_images
from data.records.reader import RecordFile
from data.records.writer import RecordWriter, write_face_records

CLASSES = [0, 0, 0, 1, 2, 2, 2, 2, 2, 3, 3]


def write(path: Path, payloads: dict[int, bytes]) -> ImageTable:
    with RecordWriter(path) as writer:
        for key, payload in payloads.items():
            writer.write(key, payload)
    file = RecordFile(path)
    return read_images(file, open_index(file))


def faces(folder: Path) -> tuple[RecordFile, RecordIndex]:
    write_face_records(folder, ((label, b"image") for label in CLASSES))
    file = RecordFile(folder / "train.rec")
    return file, open_index(file)


def header(*labels: float) -> bytes:
    return pack_record(labels, 0, b"")


def test_without_a_header_record_every_record_is_an_image(tmp_path: Path) -> None:
    labels = {7: 4, 0: 2, 3: 0}
    images = write(tmp_path / "x.rec", {k: pack_record(v, k, b"i") for k, v in labels.items()})
    assert list(images.keys) == [7, 0, 3]
    assert images.labels.tolist() == [4, 2, 0]
    assert images.labels.dtype == np.int32
    assert not images.has_header


def test_consecutive_keys_are_a_range(tmp_path: Path) -> None:
    payload = pack_record(0, 0, b"i")
    assert write(tmp_path / "x.rec", dict.fromkeys((4, 5, 6), payload)).keys == range(4, 7)
    keys = write(tmp_path / "x.rec", dict.fromkeys((4, 6, 5), payload)).keys
    assert not isinstance(keys, range)
    assert keys.tolist() == [4, 6, 5]


def test_an_image_with_two_labels_at_key_0_is_not_a_header_record(tmp_path: Path) -> None:
    images = write(tmp_path / "x.rec", {k: pack_record([3, 9], k, b"i") for k in (0, 1, 2)})
    assert list(images.keys) == [0, 1, 2]
    assert images.labels.tolist() == [3, 3, 3]


@pytest.mark.parametrize("headers_at_most", [0, 100])
def test_the_identity_layout_has_its_images_at_keys_1_to_n(
    headers_at_most: int, tmp_path: Path
) -> None:
    file, index = faces(tmp_path)
    images = read_images(file, index, headers_at_most=headers_at_most)
    assert images.keys == range(1, 12)
    assert images.has_header
    assert images.labels.tolist() == CLASSES
    assert [file.read(offset)[24:] for offset in images.offsets.tolist()] == [b"image"] * 11


def test_the_order_of_the_index_does_not_matter_to_the_identity_layout(tmp_path: Path) -> None:
    file, index = faces(tmp_path)
    mixed = np.random.default_rng(0).permutation(len(index.keys))
    images = read_images(file, RecordIndex(index.keys[mixed], index.offsets[mixed]))
    assert images.labels.tolist() == CLASSES


def test_labels_of_split_records_are_read(tmp_path: Path) -> None:
    magic = b"\x0a\x23\xd7\xce"
    images = write(tmp_path / "x.rec", {0: pack_record(1, 0, magic), 1: pack_record(0, 1, magic)})
    assert images.labels.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("ranges", "from_ranges"),
    [
        ([(1, 4), (4, 5), (5, 10), (10, 12)], 11),
        ([(10, 12), (1, 4), (5, 10), (4, 5)], 11),  # in any order
        ([(1, 4), (5, 10), (10, 12)], 10),  # key 4 is in none
        ([(1, 4), (4, 10), (10, 12)], 5),  # two classes in one, which its ends show
        ([(1, 4), (4, 5), (5, 12)], 4),
        ([(1, 12)], 0),
        ([(1, 4), (3, 5), (5, 10), (10, 12)], 0),  # overlapping
        ([(1, 4), (4, 5), (5, 10), (6, 9), (10, 12)], 0),
        ([(1, 4), (4, 5), (5, 10), (10, 13)], 9),  # beyond the last image
        ([(0, 4), (4, 5), (5, 10), (10, 12)], 8),
        ([(1.0, float("nan")), (4, 5), (5, 10), (10, 12)], 8),
        ([(1.0, float("inf")), (4, 5), (5, 10), (10, 12)], 8),
        ([(4, 1), (4, 5), (5, 10), (10, 12)], 8),
        ([], 0),
    ],
)
def test_key_ranges_are_trusted_only_if_their_images_agree(
    ranges: list[tuple[float, float]],
    from_ranges: int,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    payloads = {key: pack_record(label, key, b"i") for key, label in enumerate(CLASSES, 1)}
    payloads |= {12 + i: pack_record(pair, 12 + i, b"") for i, pair in enumerate(ranges)}
    write(tmp_path / "x.rec", {0: header(12, 12 + len(ranges)), **payloads})
    file = RecordFile(tmp_path / "x.rec")
    with caplog.at_level(logging.INFO):
        images = read_images(file, open_index(file), headers_at_most=0)
    assert images.labels.tolist() == CLASSES
    (record,) = [record for record in caplog.records if record.args]
    assert record.args == (file.path, from_ranges, 11, 11 - from_ranges)


@pytest.mark.slow
def test_bounds_that_float32_cannot_hold_are_found_by_reading(tmp_path: Path) -> None:
    stop = (1 << 24) + 1  # stored as 2**24
    payloads = {0: header(stop, stop + 2)}
    payloads |= {stop - 1: pack_record(0, 0, b"image"), stop: header(1, stop - 2)}
    with RecordWriter(tmp_path / "x.rec") as writer:
        offsets = {key: writer.write(key, payload) for key, payload in payloads.items()}
    # The index has 17 million entries, all but two of them for one image.
    keys = np.arange(stop + 1)
    every = np.full(len(keys), offsets[stop - 1])
    every[[0, stop]] = offsets[0], offsets[stop]
    images = read_images(RecordFile(tmp_path / "x.rec"), RecordIndex(keys, every))
    assert images.keys == range(1, stop)
    assert len(images.labels) == stop - 1
    assert not images.labels.any()


def test_a_first_record_that_claims_4_billion_labels_is_refused(tmp_path: Path) -> None:
    payload = b"\xff" * 4 + header(2, 2)[4:]
    with pytest.raises(RecordError, match=r"x\.rec, key 0, offset 0: "):
        write(tmp_path / "x.rec", {0: payload, 1: pack_record(0, 1, b"image")})


def test_a_record_with_bounds_that_no_index_can_hold_is_not_a_header_record(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"x\.rec, key 0, offset 0: "):
        write(tmp_path / "x.rec", {0: header(1e38, 3e38), 1: pack_record(0, 1, b"image")})


@pytest.mark.parametrize(
    ("payload", "values"),
    [
        (pack_record(2.5, 0, b"i"), "label 2.5 "),
        (pack_record(float("nan"), 0, b"i"), "label nan "),
        (pack_record(float("inf"), 0, b"i"), "label inf .* 16777216 "),
        (pack_record([-1, 3], 0, b"i"), "label -1.0 "),
        (pack_record(20000003, 0, b"i"), "label 20000004 .* 16777216 "),
        (pack_record([1, 2, 3], 0, b""), ""),
        (b"0123456789", ""),
        (b"", ""),
    ],
)
def test_records_without_an_image_or_a_class_are_refused(
    payload: bytes, values: str, tmp_path: Path
) -> None:
    good = pack_record(0, 0, b"abcd")
    with pytest.raises(RecordError, match=rf"x\.rec, key 6, offset 36: .*{values}.*\(2 .* 4\)"):
        write(tmp_path / "x.rec", {5: good, 6: payload, 7: good, 8: payload})


def test_images_that_the_header_record_states_must_exist(tmp_path: Path) -> None:
    payloads = {key: pack_record(0, key, b"i") for key in (1, 2, 4)}
    with pytest.raises(RecordError, match=r"1 … 4,.* key 3 \(3 "):
        write(tmp_path / "x.rec", {0: header(5, 5), **payloads})
    with pytest.raises(RecordError, match=r"1 … 5,.* key 3 \(3 "):
        write(tmp_path / "x.rec", {0: header(6, 9), **payloads})
    payloads[3] = payloads[4]
    with pytest.raises(RecordError, match=r"1 … 5,.* key 5 \(4 "):
        write(tmp_path / "x.rec", {0: header(6, 9), **payloads})


def test_records_beyond_the_end_that_the_header_record_states_are_ignored(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    payloads = {key: pack_record(0, key, b"i") for key in (1, 2, 3, 9)}
    images = write(tmp_path / "x.rec", {0: header(3, 3), **payloads})
    assert images.keys == range(1, 3)
    (record,) = [record for record in caplog.records if record.levelname == "WARNING"]
    assert record.args == (tmp_path / "x.rec", 2, 2)
