import pickle
import struct
import sys
from pathlib import Path

import numpy as np
import pytest

from data.pairs.pickle_values import PickledArray, UnsafePickleError
from data.pairs.safe_pickle import loads

JPEG = bytes(range(256)) * 3 + b"\\'\"\n"


def _plain(value: object) -> object:
    """The loaded value in terms of Python's own types."""
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, tuple):
        return tuple(_plain(item) for item in value)
    return bytes(value) if isinstance(value, memoryview) else value


@pytest.mark.parametrize("protocol", range(6))
def test_plain_data_comes_back(protocol: int) -> None:
    repeated = b"one object twice"
    value = (
        [JPEG, b"", b"x" * 300, b"y" * 70_000, repeated, repeated],
        [True, False, None, 0, 255, -1, 70_000, 2**40, -(2**70), 1.5, "ö", "w" * 300],
        (),
        ((1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)),
    )
    assert _plain(loads(pickle.dumps(value, protocol))) == value


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("module", ["numpy.core.", "numpy._core."])
def test_arrays_and_scalars_come_back(protocol: int, module: str) -> None:
    arrays = [
        np.arange(300, dtype=np.uint8),
        np.array([True, False]),
        np.arange(6, dtype=">i4").reshape(2, 3),
        np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3)),
    ]
    data = pickle.dumps((arrays, np.bool_(True), np.float64(1.5), np.int32(7)), protocol)
    data = _rename(data, module, protocol)
    loaded = loads(data)
    assert isinstance(loaded, tuple)
    assert loaded[1:] == (True, 1.5, 7)
    for found, expected in zip(loaded[0], arrays, strict=True):
        assert isinstance(found, PickledArray)
        assert isinstance(found.values, np.ndarray)
        assert found.values.dtype == expected.dtype
        assert (found.values == expected).all()


def _rename(data: bytes, module: str, protocol: int) -> bytes:
    """Spell NumPy's module as NumPy 1 or NumPy 2 does, where the length needs no care."""
    ours = np.ndarray.__reduce__(np.zeros(1))[0].__module__.removesuffix("multiarray").encode()
    return data if protocol >= 4 else data.replace(b"c" + ours, b"c" + module.encode())


def test_an_array_of_objects_is_a_list() -> None:
    objects = np.empty(2, dtype=object)
    objects[:] = [b"first", b"second"]
    loaded = loads(pickle.dumps(objects, 4))
    assert isinstance(loaded, PickledArray)
    assert _plain(loaded.values) == [b"first", b"second"]


def test_python_2_strings_are_bytes() -> None:
    text = b"(lp0\nS'\\xff\\xd8\\n\\'\\\\x41'\np1\nag1\naI01\na."
    assert _plain(loads(text)) == [b"\xff\xd8\n'\\x41", b"\xff\xd8\n'\\x41", True]
    assert _plain(loads(b"\x80\x02]q\x00(U\x02\xff\xd8T\x03\x00\x00\x00abce.")) == [
        b"\xff\xd8",
        b"abc",
    ]


def test_byte_strings_are_views_of_the_input() -> None:
    data = pickle.dumps([b"x" * 100_000], 4)
    loaded = loads(data)
    assert isinstance(loaded, list)
    assert loaded[0].obj is data


class _Call:
    """Pickles as a call of any function."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return self.call


@pytest.mark.parametrize("protocol", range(6))
def test_no_call_is_made(protocol: int, tmp_path: Path) -> None:
    target = tmp_path / "pwned"
    for function in (Path.touch, exec, getattr, __import__, np.load, np.array):
        with pytest.raises(UnsafePickleError, match="which plain data does not need"):
            loads(pickle.dumps([_Call(function, target)], protocol))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"cnumpy\ndtype.__class__\n.", "numpy.dtype.__class__"),
        (b"cthis\ns\n.", "this.s"),
        (b"]}b.", "opcode b'}'"),  # a dictionary as state
        (b"cnumpy\nndarray\n(N}tb.", "opcode b'}'"),
        (b"cnumpy\nndarray\n)b.", "a state for a _Name"),
        (b"]K\x01\x85R.", "a call of something that is not a function's name"),
        (b"]K\x01\x85\x81.", "opcode b'\\\\x81'"),  # NEWOBJ
        (b"P1\n.", "opcode b'P'"),  # a persistent id
        (b"\x82\x01.", "opcode b'\\\\x82'"),  # an extension
        (b"(i__main__\nx\n.", "opcode b'i'"),
        (b"(o.", "opcode b'o'"),
        (b"\x80\x09N.", "protocol 9"),
        (b"K\x01K\x02a.", "items are added to a int"),
        (b"a.", "damaged pickle"),
        (b"e.", "damaged pickle"),
        (b"h\x07.", "damaged pickle"),
        (b"Ifour\n.", "damaged pickle"),
        (b"S'open\n.", "without quotes"),
        (b"c_codecs\nencode\n(Vx\nVrot13\ntR.", "expected latin1"),
        (b"cnumpy\ndtype\n(VV8\ntR.", "dtype 'V8'"),
        (b"cnumpy\ndtype\n(Vc16\ntR.", "dtype 'c16'"),
    ],
)
def test_other_opcodes_and_damage_are_refused(data: bytes, message: str) -> None:
    with pytest.raises(UnsafePickleError, match=message):
        loads(data)
    assert "this" not in sys.modules


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x8e" + struct.pack("<Q", 2**62) + b"x.", "4611686018427387904 bytes are announced"),
        (b"T\xff\xff\xff\xffx.", "-1 bytes are announced"),
        (b"N" * 2000 + b"Nr\xff\xff\xff\xffI" + b"9" * 5000 + b"\n.", "damaged pickle"),
        (b"N" * 3_000_001, "more than 3,000,000 opcodes"),
        (b"X\x00\x10\x00\x00" + b"w" * 4096 + b"q\x01", "0 are left"),
    ],
)
def test_promises_that_the_file_does_not_keep_cost_nothing(data: bytes, message: str) -> None:
    with pytest.raises(UnsafePickleError, match=message):
        loads(data)


ARRAY = b"cnumpy.core.numeric\n_frombuffer\n(U\x01xcnumpy\ndtype\n(Vu1\ntR%sVC\ntR."
DOUBLED = b")" + b"".join(b"\x94h%c\x86" % number for number in range(60))  # 2**60 tuples to print


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (DOUBLED, "a tuple of 2 items: expected"),
        (b")" + b"\x85" * 100_000, "a tuple of 1 items: expected"),
        (b"(" + b"K\x01" * 9 + b"t", "a tuple of 9 items: expected at most 8 whole numbers"),
        (b"J\xff\xff\xff\xff\x85", "a tuple of 1 items: expected"),
        (b"I" + b"9" * 4000 + b"\n\x85", "a tuple of 1 items: expected"),
        (b"V1\n\x85", "a tuple of 1 items: expected"),
    ],
    ids=["doubled", "deep", "long", "negative", "huge", "text"],
)
def test_a_shape_is_a_few_whole_numbers(shape: bytes, message: str) -> None:
    with pytest.raises(UnsafePickleError, match=message):
        loads(ARRAY % shape)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"cnumpy\ndtype\n(Vu1\ntR(K\x03Vf4,\nNNNtb.", "a byte order of 'f4,'"),
        (b"cnumpy\ndtype\n(Vu1\ntR(K\x03V(9,)\nNNNtb.", r"a byte order of '\(9,\)'"),
        (b"cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n(VO8\ntR(NltR.", "that is an object"),
    ],
)
def test_dtypes_that_are_no_number_are_refused(data: bytes, message: str) -> None:
    with pytest.raises(UnsafePickleError, match=message):
        loads(data)


@pytest.mark.parametrize(
    "data",
    [
        b"c" + b"a" * 100_000 + b"\nb\n.",
        b"F" + b"x" * 100_000 + b"\n.",
        b"cnumpy\ndtype\n(V" + b"x" * 100_000 + b"\ntR.",
        b"c_codecs\nencode\n(Vx\nV" + b"y" * 100_000 + b"\ntR.",
        b"cnumpy\ndtype\n(Vu1\ntR(K\x03V" + b"x" * 100_000 + b"\nNNNtb.",
    ],
    ids=["name", "float", "dtype", "encoding", "order"],
)
def test_messages_stay_short(data: bytes) -> None:
    with pytest.raises(UnsafePickleError) as caught:
        loads(data)
    assert len(str(caught.value)) < 300


def test_a_text_is_not_multiplied_through_the_memo() -> None:
    text = b"X\x00\x10\x00\x00" + b"w" * 4096 + b"q\x01"
    encode = b"c_codecs\nencode\nh\x01X\x06\x00\x00\x00latin1\x86R"
    with pytest.raises(UnsafePickleError, match="more bytes are built than the file holds"):
        loads(text + 10 * encode + b".")


def test_an_array_that_is_larger_than_the_file_is_refused() -> None:
    data = pickle.dumps(np.zeros((2, 3), dtype=np.uint8), 2)
    assert data.count(b"K\x02K\x03\x86") == 1
    with pytest.raises(UnsafePickleError, match="damaged pickle"):
        loads(data.replace(b"K\x02K\x03\x86", b"K\xffK\xff\x86"))


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_every_cut_is_refused(protocol: int) -> None:
    data = pickle.dumps(([JPEG, np.arange(9, dtype=np.uint8)], [True]), protocol)
    for stop in range(len(data)):
        with pytest.raises(UnsafePickleError, match="at byte"):
            loads(data[:stop])
