"""Damaged and malicious files cause only the documented errors, in limited time and memory.

The default run uses the same few hundred inputs per test each time. To search for new ones:

    pytest tests/data/test_fuzz.py --hypothesis-profile=fuzz --timeout=0
"""

import io
import pickle
import re
import resource
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from data.datasets.class_ids import NumberingError
from data.datasets.dataset import open_dataset
from data.loading.decode import BadImage, decode_into
from data.pairs.bin_file import PairFileError, read_pair_file
from data.pairs.safe_pickle import NAMES
from data.records.format import MAGIC_BYTES, RecordError, pack_record, unpack_record
from data.records.index import read_index
from data.records.reader import RecordFile
from tests.data.loading.test_decode_limits import BOMBS

MOST_MEMORY = 1 << 30  # in addition to what the process has; an image may take a quarter
MOST_SECONDS = 20  # of CPU time; 1 was observed

NUMBERS = [0, 1, 7, 0xFF, 2**15, 60_000, 2**16 - 1, 2**29 - 1, 2**29, 2**31 - 1, 2**31, 2**32 - 1]
WORDS = st.one_of(
    st.sampled_from([MAGIC_BYTES, *(struct.pack("<I", flag << 29 | 8) for flag in range(8))]),
    st.sampled_from(NUMBERS).map(lambda number: struct.pack("<I", number)),
    st.sampled_from(NUMBERS).map(lambda number: struct.pack(">I", number)),
    st.sampled_from(NUMBERS).map(lambda number: struct.pack(">H", number & 0xFFFF)),
    st.binary(min_size=1, max_size=8),
)


@contextmanager
def bounded() -> Iterator[None]:
    """Fail if the block takes too much time or memory.

    The limit is on the address space of this process, so memory reserved by C code counts too.
    """
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MOST_MEMORY, before[1]))
    started = time.process_time()
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
    assert time.process_time() - started < MOST_SECONDS


@contextmanager
def refused(*kinds: type[ValueError], location: object = "") -> Iterator[None]:
    """Allow an error of one of `kinds`, whose message must have the location and be short."""
    try:
        yield
    except kinds as error:
        if str(location) not in str(error) or not 0 < len(str(error)) < 1000:
            raise AssertionError(f"a poor message: {str(error)[:2000]}") from error


@st.composite
def damaged(draw: st.DrawFn, originals: st.SearchStrategy[bytes]) -> bytes:
    """Draw one of `originals` with some of its bytes changed, cut, inserted or repeated."""
    data = bytearray(draw(originals))
    for _ in range(draw(st.integers(1, 5))):
        at = draw(st.integers(0, len(data)))
        if draw(st.booleans()):
            at -= at % 4
        match draw(st.sampled_from(["overwrite", "insert", "delete", "repeat", "cut"])):
            case "overwrite":
                word = draw(WORDS)
                data[at : at + len(word)] = word
            case "insert":
                data[at:at] = draw(WORDS) * draw(st.integers(1, 40))
            case "delete":
                del data[at : at + draw(st.integers(1, 64))]
            case "repeat":
                data[at:at] = data[at : at + draw(st.integers(1, 64))] * draw(st.integers(1, 9))
            case "cut":
                del data[at:]
    return bytes(data)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


def replace(path: Path, content: bytes) -> Path:
    """Write a new file; the old one may still be mapped and must not change."""
    path.unlink(missing_ok=True)
    path.write_bytes(content)
    return path


LABELS = st.sampled_from([0.0, 1.0, 2.0, 2.5, -1.0, 2.0**24, 3e38, float("nan")])
PAYLOADS = st.one_of(
    st.builds(pack_record, LABELS, st.integers(0, 2**64 - 1), st.binary(max_size=9)),
    st.builds(pack_record, st.lists(LABELS, min_size=1, max_size=4), st.just(0), st.binary()),
    st.lists(st.sampled_from([MAGIC_BYTES, b"ab", b"cdef"])).map(b"".join),
    st.binary(max_size=40),
)


def framed(payloads: list[bytes]) -> bytes:
    """Return a record of one part or of several."""
    flags = [1, *[2] * (len(payloads) - 2), 3] if len(payloads) > 1 else [0]
    return b"".join(
        MAGIC_BYTES + struct.pack("<I", flag << 29 | len(part)) + part + bytes(-len(part) % 4)
        for flag, part in zip(flags, payloads, strict=True)
    )


RECORDS = st.lists(PAYLOADS, min_size=1, max_size=3).map(framed)
RECORD_FILES = st.lists(RECORDS, min_size=1, max_size=6).map(b"".join)
OFFSETS = st.one_of(st.integers(0, 60).map(lambda word: 4 * word), st.integers(-(2**63), 2**63 - 1))


@pytest.mark.slow
@given(
    content=st.one_of(RECORD_FILES, damaged(RECORD_FILES), st.binary().map(MAGIC_BYTES.__add__)),
    offsets=st.lists(OFFSETS, max_size=4),
)
def test_record_files(folder: Path, content: bytes, offsets: list[int]) -> None:
    path = replace(folder / "x.rec", content)
    with bounded(), refused(RecordError, location=path):
        file = RecordFile(path)
        for offset in offsets:
            with refused(RecordError, location=f"{path}, key 5, offset {offset}: "):
                file.read(offset, 5)
            with refused(RecordError, location=f"{path}, key 5, offset {offset}: "):
                file.headers(np.array([offset]), range(5, 6))
        found = file.scan()
        headers = file.headers(found)
        for row, offset in enumerate(found.tolist()):
            payload = file.read(offset)
            try:
                record = unpack_record(payload)
            except RecordError:
                assert headers.image_sizes[row] < 0
                continue
            assert headers.image_sizes[row] == len(record.image)
            assert headers.ids[row] == record.id
            assert headers.flags[row] == (len(record.labels) if record.is_list else 0)
            labels = np.append(record.labels, np.float32("nan"))[:2]
            np.testing.assert_array_equal(headers.labels[row], labels)


LINES = st.builds("{}\t{}".format, st.integers(0, 10**19), st.integers(0, 10**19)).map(str.encode)
INDEXES = st.builds(
    lambda lines, end, last: end.join(lines) + end * last,
    st.lists(LINES, max_size=8), st.sampled_from([b"\n", b"\r\n"]), st.booleans(),
)  # fmt: skip


@given(
    content=st.one_of(INDEXES, damaged(INDEXES), st.binary()),
    chunk_bytes=st.sampled_from([1, 7, 1 << 20]),
)
def test_index_files(folder: Path, content: bytes, chunk_bytes: int) -> None:
    lines = content.replace(b"\r\n", b"\n").removesuffix(b"\n").split(b"\n") if content else []
    path = replace(folder / "x.idx", content)
    expected = []
    for line in lines:
        number = re.fullmatch(rb"([0-9]{1,18})\t([0-9]{1,18})", line)
        expected.append(number and [int(number[1]), int(number[2])])
    with bounded(), refused(RecordError, location=f"{path}, line "):
        index = read_index(path, chunk_bytes=chunk_bytes)
        found = np.stack([index.keys, index.offsets], 1).tolist()
        assert found == expected
        return
    assert None in expected


IMAGE_RECORDS = st.builds(
    lambda label, image: framed([pack_record(label, 7, image)]),
    st.sampled_from([0.0, 1.0]), st.sampled_from([b"image", b"another"]),
)  # fmt: skip


@st.composite
def datasets(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """Draw a `.rec` of images and its `.idx`, with or without a header record."""
    records = draw(st.lists(IMAGE_RECORDS, min_size=1, max_size=6))
    if draw(st.booleans()):
        bounds = [len(records) + 1, draw(st.sampled_from([len(records) + 1, 2**24, 3e38]))]
        records.insert(0, framed([pack_record(bounds, 0, b"")]))
    offsets = np.cumsum([0, *map(len, records)])
    lines = (f"{key}\t{offset}\n" for key, offset in enumerate(offsets[:-1]))
    return b"".join(records), "".join(lines).encode()


@st.composite
def damaged_datasets(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """Draw such a pair with damage to one file or both."""
    rec, idx = draw(datasets())
    which = draw(st.integers(0, 3))
    rec = draw(damaged(st.just(rec))) if which & 1 else rec
    return rec, draw(damaged(st.just(idx))) if which & 2 else idx


@pytest.mark.slow
@given(pair=damaged_datasets(), has_index=st.booleans(), remap=st.booleans())
def test_datasets(folder: Path, pair: tuple[bytes, bytes], has_index: bool, remap: bool) -> None:
    path = replace(folder / "train.rec", pair[0])
    index = replace(folder / "train.idx", pair[1])
    if not has_index:
        index.unlink()
    with bounded(), refused(NumberingError, RecordError, location=folder / "train."):
        dataset = open_dataset(path, remap_labels=remap)
        assert len(dataset) == len(dataset.labels)
        assert set(dataset.labels.tolist()) == set(range(dataset.num_classes))
        for number in range(len(dataset)):
            assert str(path) in dataset.describe(number)
            with refused(RecordError, location=dataset.describe(number)):
                assert len(dataset.encoded(number)) > 0


def encoded(kind: str, mode: str = "RGB", side: int = 24, **options: Any) -> bytes:
    y, x = np.mgrid[0:side, 0:side]
    pixels = np.stack([x * 9, y * 7, (x + y) * 5], 2).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


FRAMES = [Image.new("RGB", (24, 24), (shade, 0, 0)) for shade in (10, 90)]
IMAGES = [
    encoded("JPEG"),
    encoded("JPEG", "L"),
    encoded("JPEG", "CMYK"),
    encoded("JPEG", progressive=True, restart_marker_blocks=1, comment=b"some words"),
    encoded("JPEG", side=80, subsampling=0, quality=100),
    encoded("PNG"),
    encoded("PNG", "P"),
    encoded("PNG", "LA"),
    encoded("PNG", "1"),
    encoded("PNG", icc_profile=bytes(200)),
    encoded("PNG", save_all=True, append_images=FRAMES),
    encoded("BMP"),
    encoded("BMP", "P"),
    encoded("BMP", "RGBA"),
    encoded("WEBP"),
    encoded("WEBP", "RGBA", lossless=True, exif=b"Exif\0\0MM\0*"),
    encoded("WEBP", save_all=True, append_images=FRAMES),
    *(bomb for bomb, _ in BOMBS.values() if len(bomb) < 200_000),
]


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@given(content=st.one_of(damaged(st.sampled_from(IMAGES)), st.binary(max_size=60)))
def test_images(content: bytes) -> None:
    image = np.empty((24, 24, 3), np.uint8)
    with bounded(), refused(BadImage):
        decode_into(image, memoryview(content))


GLOBALS = [name.rpartition(".") for name in NAMES]
TEXTS = ["", "latin1", "u1", "f8", "O8", "i3", "<", "C", "F", "b1", "9" * 30, *"|=>"]
# Every opcode that is read, with arguments that fit and some that do not.
OPCODES = st.one_of(
    st.sampled_from([bytes([code]) for code in b"N\x88\x89(]la)t\x85\x86\x87e\x94\x93Rb."]),
    st.sampled_from([f"c{module}\n{name}\n".encode() for module, _, name in GLOBALS]),
    st.sampled_from(TEXTS).map(lambda text: f"V{text}\n".encode()),
    st.sampled_from(TEXTS).map(lambda text: b"\x8c" + bytes([len(text)]) + text.encode()),
    st.sampled_from(["I{}\n", "L{}L\n", "F{}\n", "S'{}'\n", "p{}\n", "g{}\n"]).flatmap(
        lambda line: st.sampled_from(["00", "01", "7", "-1", "1e9", "\\x41", "inf", "9" * 40]).map(
            lambda text: line.format(text).encode()
        )
    ),
    st.builds(
        lambda code, number, size: code + struct.pack("<Q", number)[:size],
        st.sampled_from([b"T", b"B", b"\x8e", b"\x96", b"X", b"\x8d", b"r", b"j", b"J"]),
        st.one_of(st.integers(0, 3), st.sampled_from(NUMBERS)),
        st.sampled_from([4, 8]),
    ),
    st.builds(
        lambda code, number: code + bytes([number]) + b"\xff\xd8!"[:number],
        st.sampled_from([b"U", b"C", b"\x8a", b"K", b"h", b"q"]), st.integers(0, 3),
    ),
    st.binary(min_size=1, max_size=3),
)  # fmt: skip


def chunks_of_pickles() -> Iterator[bytes]:
    """Yield whole values for the programs below to build on: arrays, dtypes, scalars."""
    for name in ("numpy.core.multiarray", "numpy._core.multiarray"):
        yield f"c{name}\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR".encode()
        yield f"c{name}\nscalar\n(cnumpy\ndtype\n(Vu1\ntRU\x01btR".encode()
    yield b"cnumpy\ndtype\n(Vu1\ntR(K\x03V|\nNNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    yield b"(K\x01(K\x02tcnumpy\ndtype\n(Vb1\ntRI00\nU\x02\x00\x01tb"
    yield b"cnumpy.core.numeric\n_frombuffer\n(U\x02\x00\x01cnumpy\ndtype\n(Vb1\ntRK\x02\x85VC\ntR"
    yield b"(lU\x02\xff\xd8aU\x02\xff\xd8a"


DOUBLED = b")" + b"".join(b"\x94h%c\x86" % level for level in range(22))
ROWS = b"\x8a\x05" + (2**33).to_bytes(5, "little")  # as many, of nothing
SHAPES = [DOUBLED, b")" + b"\x85" * 3000, ROWS + b"K\0\x86", b"K\0\x85", b"N\x85"]
SHAPED = st.sampled_from(SHAPES).map(
    lambda shape: (
        b"cnumpy.core.numeric\n_frombuffer\n(C\0cnumpy\ndtype\n(Vu1\ntR" + shape + b"VC\ntR"
    )
)
VALUES = st.one_of(SHAPED, st.sampled_from([*chunks_of_pickles()]))
PAIRS = st.builds(lambda images, same: images + same + b"\x86.", VALUES, VALUES)
PROGRAMS = st.lists(st.one_of(OPCODES, VALUES), max_size=14).map(
    lambda program: b"".join(program) + b"."
)


def objects() -> np.ndarray:
    images = np.empty(2, object)
    images[:] = [np.frombuffer(b"\xff\xd8 an image", np.uint8), b"\xff\xd8"]
    return images


SETS = [
    pickle.dumps(content, protocol)
    for protocol in range(6)
    for content in (
        ([b"\xff\xd8 first", b"second"] * 2, [True, False]),
        (objects(), np.array([True])),
        ([bytearray(b"first"), b"x" * 300], np.array([1])),
    )
]


@given(content=st.one_of(PROGRAMS, PAIRS, damaged(st.sampled_from(SETS)), damaged(PAIRS)))
def test_pair_files(folder: Path, content: bytes) -> None:
    path = replace(folder / "x.bin", content)
    pairs = None
    with bounded(), refused(PairFileError, location=path):
        pairs = read_pair_file(path)
    if pairs is None:
        return
    assert len(pairs) == 2 * len(pairs.same) > 0
    image = np.empty((8, 8, 3), np.uint8)
    for number in range(len(pairs)):
        with bounded(), refused(BadImage):
            decode_into(image, pairs.encoded(number))
