import builtins
import mmap
import pickle
import struct
import sys
from pathlib import Path

import numpy as np
import pytest

from data.pairs.safe_pickle import MAX_OPCODES, UnsafePickleError, loads, value_of

JPEG = bytes(range(256)) * 3 + b"\\'\"\n"


def _mapped(data: bytes) -> mmap.mmap:
    mapped = mmap.mmap(-1, len(data))
    mapped.write(data)
    mapped.seek(0)
    return mapped


def _load(data: bytes) -> object:
    """The pickle's value in terms of Python's own types and arrays."""
    return _plain(loads(_mapped(data)))


def _plain(item: object) -> object:
    value = value_of(item)
    if isinstance(value, list):
        return [_plain(part) for part in value]
    if isinstance(value, tuple):
        return tuple(_plain(part) for part in value)
    return bytes(value) if isinstance(value, memoryview) else value


@pytest.mark.parametrize("protocol", range(6))
def test_plain_data_is_loaded(protocol: int) -> None:
    repeated = b"one object twice"
    value = (
        [JPEG, b"", b"x" * 300, b"y" * 70_000, repeated, repeated, bytearray(JPEG)],
        [True, False, None, 0, 255, -1, 70_000, 2**40, -(2**70), 1.5],
        (),
        ((1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)),
    )
    assert _load(pickle.dumps(value, protocol)) == value
    texts = ["ö", "w" * 300]  # they spell bytes in protocols 0 to 2, and are kept as such
    found = _load(pickle.dumps(texts, protocol))
    assert isinstance(found, list)
    for item, text in zip(found, texts, strict=True):
        assert item == (text if isinstance(item, str) else text.encode("latin1"))


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("module", ["numpy.core.", "numpy._core."])
def test_arrays_and_scalars_are_loaded(protocol: int, module: str) -> None:
    arrays = [
        np.arange(300, dtype=np.uint8),
        np.array([True, False]),
        np.arange(6, dtype=">i4").reshape(2, 3),
        np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3)),
    ]
    data = pickle.dumps((arrays, np.bool_(True), np.float64(1.5), np.int32(7)), protocol)
    loaded = _load(_rename(data, module, protocol))
    assert isinstance(loaded, tuple)
    assert loaded[1:] == (True, 1.5, 7)
    for array, expected in zip(loaded[0], arrays, strict=True):
        assert isinstance(array, np.ndarray)
        assert array.dtype == expected.dtype
        assert np.array_equal(array, expected)


def _rename(data: bytes, module: str, protocol: int) -> bytes:
    """Spell NumPy's module as NumPy 1 or NumPy 2 does, where its length is not stored."""
    ours = np.ndarray.__reduce__(np.zeros(1))[0].__module__.removesuffix("multiarray").encode()
    return data if protocol >= 4 else data.replace(b"c" + ours, b"c" + module.encode())


def test_an_array_of_objects_is_a_list() -> None:
    objects = np.empty(2, dtype=object)
    objects[:] = [b"first", b"second"]
    assert _load(pickle.dumps(objects, 4)) == [b"first", b"second"]


def test_python_2_strings_are_bytes() -> None:
    text = b"(lp0\nS'\\xff\\xd8\\n\\'\\\\x41'\np1\nag1\naI01\na."
    assert _load(text) == [b"\xff\xd8\n'\\x41", b"\xff\xd8\n'\\x41", True]
    binary = b"\x80\x02]q\x00(U\x02\xff\xd8T\x03\x00\x00\x00abce."
    assert _load(binary) == [b"\xff\xd8", b"abc"]


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_byte_strings_and_arrays_are_views_of_the_file(protocol: int) -> None:
    array = np.full(100_000, 9, np.uint8)
    data = _mapped(pickle.dumps([b"x" * 100_000, b"y" * 300, array], protocol))
    loaded = loads(data)
    assert isinstance(loaded, list)
    assert loaded[0].obj is loaded[1].obj is data
    values = value_of(loaded[2])
    assert isinstance(values, np.ndarray)
    assert np.shares_memory(values, np.frombuffer(data, np.uint8))


class _Call:
    """Pickles as a call of any function."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return self.call


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("name", ["touch", "exec", "getattr", "__import__", "load", "array"])
def test_no_call_is_made(protocol: int, name: str, tmp_path: Path) -> None:
    function = next(getattr(place, name) for place in (Path, builtins, np) if hasattr(place, name))
    data = pickle.dumps([_Call(function, tmp_path / "pwned")], protocol)
    # Before protocol 4 a method is pickled as a call of `getattr`.
    with pytest.raises(UnsafePickleError, match=rf"\.({name}|getattr)"):
        loads(_mapped(data))
    assert list(tmp_path.iterdir()) == []


ARRAY = b"cnumpy.core.numeric\n_frombuffer\n(U\x01xcnumpy\ndtype\n(Vu1\ntR%sVC\ntR."
DTYPE = b"cnumpy.core.numeric\n_frombuffer\n(U\x01xcnumpy\ndtype\n(%stR%sK\x01\x85VC\ntR."
DOUBLED = b")" + b"".join(b"\x94h%c\x86" % number for number in range(60))  # 2**60 tuples to print
HUGE = struct.pack("<Q", 2**62)
TERA = b"\x8a\x06" + (2**40).to_bytes(6, "little")
MANY = struct.pack("<I", 2**32 - 1)

REFUSED = {
    # names and calls: the message has the name
    "attribute of a known name": (b"cnumpy\ndtype.__class__\n.", "numpy.dtype.__class__"),
    "module": (b"cthis\ns\n.", "this.s"),
    "NumPy's loader": (b"cnumpy.core.multiarray\nfromfile\n.", "numpy.core.multiarray.fromfile"),
    "builtin": (b"cbuiltins\neval\n.", "builtins.eval"),
    "call of a list": (b"]K\x01\x85R.", None),
    "call of a number": (b"K\x01)R.", None),
    "call with no tuple": (b"cnumpy\ndtype\nK\x01R.", "dtype"),
    "class as a value": (b"cnumpy\nndarray\n)R.", "class"),
    "dtype as a value": (b"cnumpy\ndtype\n(Vu1\ntR.", "dtype"),
    # opcodes: the message has the opcode
    "dictionary as a state": (b"]}b.", "}"),
    "dictionary in a state": (b"cnumpy\nndarray\n(N}tb.", "}"),
    "NEWOBJ": (b"]K\x01\x85\x81.", "x81"),
    "NEWOBJ_EX": (b"]K\x01\x85\x92.", "x92"),
    "persistent id": (b"P1\n.", "'P'"),
    "binary persistent id": (b"K\x01Q.", "'Q'"),
    "extension": (b"\x82\x01.", "x82"),
    "INST": (b"(i__main__\nx\n.", "'i'"),
    "OBJ": (b"(o.", "'o'"),
    "set": (b"\x8f.", "x8f"),
    "frozenset": (b"(\x91.", "x91"),
    "out-of-band buffer": (b"\x97.", "x97"),
    "long number": (b"\x8b\x01\x00\x00\x00\x01.", "x8b"),
    # states
    "state of a name": (b"cnumpy\nndarray\n)b.", "str"),
    "state of a list": (b"]K\x01b.", "list"),
    # damage
    "protocol": (b"\x80\x09N.", "9"),
    "append to a number": (b"K\x01K\x02a.", "int"),
    "append to nothing": (b"a.", None),
    "list without a mark": (b"e.", None),
    "memo entry": (b"h\x07.", "7"),
    "number": (b"Ifour\n.", "four"),
    "quotes": (b"S'open\n.", None),
    "STOP on an empty stack": (b".", None),
    # values
    "encoding": (b"c_codecs\nencode\n(Vx\nVrot13\ntR.", None),
    "encoded number": (b"c_codecs\nencode\n(K\x07Vlatin1\ntR.", None),
    "size for bytes": (b"cbuiltins\nbytearray\n(" + TERA + b"tR.", None),
    "text that is not Latin-1": ("X\x03\x00\x00\x00€.".encode(), "u20ac"),
    "untyped dtype": (DTYPE % (b"VV8\n", b""), "V8"),
    "complex dtype": (DTYPE % (b"Vc16\n", b""), "c16"),
    "dtype of text": (DTYPE % (b"VU4\n", b""), "U4"),
    "dtype that is a list": (DTYPE % (b"Vu1,u1\n", b""), "u1,u1"),
    "dtype that is not text": (DTYPE % (DOUBLED, b""), None),
    "list as a byte order": (DTYPE % (b"Vu1\n", b"(K\x03Vf4,\nNNNtb"), "f4,"),
    "shape as a byte order": (DTYPE % (b"Vu1\n", b"(K\x03V(9,)\nNNNtb"), r"\(9,\)"),
    "records": (DTYPE % (b"Vu1\n", b"(K\x03V|\nN(Va\nt]tb"), "dtype"),
    "scalar object": (
        b"cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n(VO8\ntR(NltR.", None,
    ),
    "objects out of bytes": (ARRAY.replace(b"Vu1", b"VO8") % b"K\x01\x85", None),
    "objects in two dimensions": (
        b"cnumpy.core.multiarray\n_reconstruct\n)R(K\x01(K\x01K\x01tcnumpy\ndtype\n(VO8\ntRI00\n]tb.",
        None,
    ),
    "array without contents": (b"cnumpy.core.multiarray\n_reconstruct\n)R.", "array"),
    # shapes
    "doubled shape": (ARRAY % DOUBLED, None),
    "deep shape": (ARRAY % (b")" + b"\x85" * 100_000), None),
    "nine dimensions": (ARRAY % (b"(" + b"K\x01" * 9 + b"t"), "8"),
    "many dimensions": (ARRAY % (b"(" + b"K\x01" * 100_000 + b"t"), "8"),
    "negative side": (ARRAY % b"J\xff\xff\xff\xff\x85", None),
    "huge side": (ARRAY % (b"I" + b"9" * 4000 + b"\n\x85"), None),
    "side of text": (ARRAY % b"V1\n\x85", None),
    "order": ((ARRAY % b"K\x01\x85").replace(b"VC\n", b"Vx\n"), None),
    "2**40 elements": (ARRAY % (TERA + b"\x85"), str(2**40)),
    # promises that the file does not keep
    "byte string": (b"\x8e" + HUGE + b"x.", f"{2**62} .* 2 "),
    "bytearray": (b"\x96" + HUGE + b"x.", f"{2**62} .* 2 "),
    "negative length": (b"T\xff\xff\xff\xffx.", f"{2**32 - 1} .* 2 "),
    "text": (b"\x8d" + HUGE + b"x.", None),
    "text of 2**63": (b"\x8d" + struct.pack("<Q", 2**63) + b"x.", None),
    "frame": (b"\x95" + HUGE, None),
    "memo index": (b"Nr" + MANY + b"I" + b"9" * 5000 + b"\n.", None),
    "memo index in text": (b"Np4294967295\ng4294967294\n.", "4294967294"),
    "opcodes": (b"N" * (MAX_OPCODES + 1), f"{MAX_OPCODES:,}"),
    "end": (b"X\x00\x10\x00\x00" + b"w" * 4096 + b"q\x01", "4103"),
    # messages that would be long
    "long name": (b"c" + b"a" * 100_000 + b"\nb\n.", None),
    "long float": (b"F" + b"x" * 100_000 + b"\n.", None),
    "long memo index": (b"Ng" + b"9" * 4000 + b"\n.", None),
    "long dtype": (DTYPE % (b"V" + b"x" * 100_000 + b"\n", b""), None),
    "long encoding": (b"c_codecs\nencode\n(Vx\nV" + b"y" * 100_000 + b"\ntR.", None),
    "long byte order": (DTYPE % (b"Vu1\n", b"(K\x03V" + b"x" * 100_000 + b"\nNNNtb"), None),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("data", "named"), REFUSED.values(), ids=REFUSED)
def test_anything_else_is_refused(data: bytes, named: str | None) -> None:
    with pytest.raises(UnsafePickleError, match=named) as caught:
        _load(data)
    assert len(str(caught.value)) < 400
    assert "this" not in sys.modules


def test_a_text_is_not_multiplied_through_the_memo() -> None:
    text = b"X\x00\x10\x00\x00" + b"w" * 4096 + b"q\x01"
    encode = b"c_codecs\nencode\nh\x01X\x06\x00\x00\x00latin1\x86R"
    loaded = loads(_mapped(b"(" + text + 10 * encode + b"l."))
    assert isinstance(loaded, list)
    assert len({id(item.obj) for item in loaded[1:]}) == 1


def test_an_array_that_is_larger_than_the_file_is_refused() -> None:
    data = pickle.dumps(np.zeros((2, 3), dtype=np.uint8), 2)
    assert data.count(b"K\x02K\x03\x86") == 1
    with pytest.raises(UnsafePickleError, match=r"size 6 .*\(255, ?255\)"):
        _load(data.replace(b"K\x02K\x03\x86", b"K\xffK\xff\x86"))


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_every_truncation_is_refused(protocol: int) -> None:
    data = pickle.dumps(([JPEG, np.arange(9, dtype=np.uint8)], [True]), protocol)
    for stop in range(1, len(data)):
        with pytest.raises(UnsafePickleError):
            _load(data[:stop])
