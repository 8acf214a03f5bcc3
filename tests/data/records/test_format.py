from pathlib import Path

import numpy as np
import pytest

from data.records.format import (
    HEADER_WORDS,
    MAGIC_BYTES,
    SIZE_MASK,
    RecordError,
    decode_headers,
    joined_words,
    pack_record,
    unpack_record,
)
from data.records.reader import RecordFile

RECORDS = Path(__file__).parents[2] / "fixtures" / "recordio"
# The multipart file has raw payloads, without a header.
WITH_HEADERS = sorted(p.parent for p in RECORDS.glob("*/train.rec") if p.parent.name != "multipart")


@pytest.mark.parametrize("folder", WITH_HEADERS, ids=lambda path: path.name)
def test_unpacked_payloads_of_mxnet_pack_to_the_same_bytes(folder: Path) -> None:
    file = RecordFile(folder / "train.rec")
    for offset in file.scan().tolist():
        payload = file.read(offset)
        record = unpack_record(payload)
        label = record.labels if record.is_list else float(record.labels[0])
        assert pack_record(label, record.id, record.image, id2=record.id2) == bytes(payload)


def test_packing_keeps_labels_and_ids() -> None:
    single = unpack_record(pack_record(7, 2**40 + 3, b"image", id2=2**63))
    assert (single.labels.tolist(), single.id, single.id2) == ([7.0], 2**40 + 3, 2**63)
    assert bytes(single.image) == b"image"
    assert not single.is_list
    several = unpack_record(pack_record([-1.5, 2], 0, b""))
    assert several.labels.tolist() == [-1.5, 2.0]
    assert several.is_list
    assert unpack_record(pack_record(np.array([4], np.float32), 0, b"")).is_list


def test_an_empty_list_of_labels_is_refused() -> None:
    with pytest.raises(ValueError, match="record 12"):
        pack_record([], 12, b"image")


@pytest.mark.parametrize("payload", [b"0123456789", pack_record([1, 2, 3], 0, b"")[:-1]])
def test_payloads_shorter_than_their_header_are_refused(payload: bytes) -> None:
    with pytest.raises(RecordError, match=f"{len(payload)} bytes"):
        unpack_record(payload)


def split_at(payload: bytes, cuts: list[int]) -> tuple[bytes, list[bytes]]:
    """Put the magic into a payload at `cuts`; return it and the parts between the magics."""
    content, parts, start = bytearray(payload), [], 0
    for cut in cuts:
        if cut + 4 <= len(content):
            content[cut : cut + 4] = MAGIC_BYTES
            parts.append(bytes(content[start:cut]))
            start = cut + 4
    return bytes(content), [*parts, bytes(content[start:])]


@pytest.mark.parametrize("cuts", [[], [0], [4], [24], [28, 32], [40]])
@pytest.mark.parametrize(
    "original",
    [
        pack_record([float(np.frombuffer(MAGIC_BYTES, "<f4")[0])] * 2, 2**40, b"abcdefghi"),
        pack_record([5, 6, 7], 3, b"image"),
        pack_record([7], 6, b"some image"),
        pack_record(8, 4, b"an image"),
        pack_record(9, 5, b""),
        b"0123456789",
        b"",
    ],
)
def test_a_header_is_decoded_from_parts_as_from_the_whole(original: bytes, cuts: list[int]) -> None:
    payload, parts = split_at(original, cuts)
    headers = decode_headers(joined_words(parts)[:, None])
    try:
        record = unpack_record(payload)
    except RecordError:
        assert headers.image_sizes[0] < 0
        return
    assert headers.image_sizes.tolist() == [len(record.image)]
    assert headers.ids.tolist() == [record.id]
    assert headers.flags.tolist() == [len(record.labels) if record.is_list else 0]
    labels = np.append(record.labels, np.float32("nan"))[:2]
    np.testing.assert_array_equal(headers.labels[0], labels)


def test_the_largest_size_is_decoded() -> None:
    words = np.zeros((HEADER_WORDS, 1), np.uint32)
    words[1] = SIZE_MASK
    assert decode_headers(words).image_sizes.tolist() == [SIZE_MASK - 24]
