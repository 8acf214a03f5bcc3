"""Reads pickles that hold data and nothing else.

Verification sets travel as pickles from strangers, and `pickle.load` runs whatever program a
pickle contains. `loads` is Python's own unpickler with three restrictions:

- It knows only the opcodes of lists, tuples, byte strings, text, numbers and arrays.
- It knows only the few names with which NumPy and Python 2 spell arrays and byte strings, and it
  imports and calls nothing: a call becomes a `Call`, from which `value_of` makes an array.
- The number of opcodes is limited and every read stops at the end of the file, so time and memory
  are at most proportional to the size of the file, whatever lengths and shapes it claims.

Byte strings are views of the file, which is mapped and not copied.

`pickle.Unpickler` cannot be bounded. It is written in C; a memo index of 2**32 - 1, five bytes in a
file, makes it allocate and fill 64 GiB, and it allocates a byte string before it checks how much is
left to read. `pickle._Unpickler` does the same work in Python, and its memo is a dictionary.
"""

import mmap
import pickle
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

MAX_OPCODES: Final = 3_000_000  # a set of 100,000 pairs takes about half a million
_MAX_DIMENSIONS: Final = 8
_DTYPE: Final = re.compile("[<>=|]?(b1|[ui][1248]|f[248]|O[48]?)")
_LATIN1: Final = ((), (b"latin1",), (b"latin-1",))

# The names that are known, and what calls of them make.
NAMES: Final = {
    "_codecs.encode": "bytes",
    "__builtin__.bytearray": "bytes",
    "__builtin__.bytes": "bytes",
    "builtins.bytearray": "bytes",
    "builtins.bytes": "bytes",
    "numpy.dtype": "dtype",
    "numpy.ndarray": "class",
    "numpy.core.multiarray._reconstruct": "array",
    "numpy._core.multiarray._reconstruct": "array",
    "numpy.core.multiarray.scalar": "scalar",
    "numpy._core.multiarray.scalar": "scalar",
    "numpy.core.numeric._frombuffer": "buffer",
    "numpy._core.numeric._frombuffer": "buffer",
}


class UnsafePickleError(ValueError):
    """The bytes are not a pickle of plain data; the message says what was found."""


@dataclass(eq=False, slots=True)
class Call:
    """A call that a pickle asks for, and that is never made."""

    makes: object  # what it would make, a value of `NAMES`
    arguments: object
    state: object = ()  # that its result would be given


def loads(data: mmap.mmap) -> object:
    """Return what the pickle in a mapped file describes.

    The result consists of lists, tuples, `memoryview`, `bytes`, `str`, `int`, `float`, `bool`,
    `None` and `Call`. Text is `str` if it is short and of protocol 4 or later, and Latin-1 bytes
    otherwise. Bytes after the end of the pickle are ignored, as `pickle` ignores them. Raises
    `UnsafePickleError` for anything else.
    """
    try:
        return _DataUnpickler(data).load()
    except Exception as error:  # a damaged pickle can raise almost anything, as `pickle` documents
        reason = str(error)[:300] or "the file ends too early"
        raise UnsafePickleError(f"at byte {data.tell()}: {reason}") from None


def value_of(item: object) -> object:
    """Return the number or array that a `Call` describes, and any other item as it is.

    An array of numbers is a view of the file, an array of objects is a list. Raises
    `UnsafePickleError` for a call that describes neither.
    """
    try:
        match item:
            case Call("array", _, (_, shape, dtype, is_fortran, contents)):
                return _array(contents, dtype, shape, "F" if is_fortran else "C")
            case Call("buffer", (contents, dtype, shape, order)):
                return _array(contents, dtype, shape, _text(order))
            case Call("scalar", (dtype, contents)):
                return _array(contents, dtype, (1,), "C").item()
            case Call(makes):
                raise UnsafePickleError(f"an unusual call, for {_text(makes)[:40]!r}")
        return item
    except (AttributeError, OverflowError, TypeError, ValueError) as error:
        raise UnsafePickleError(f"no array or number can be made: {str(error)[:200]}") from None


def _array(contents: Any, dtype: object, shape: Any, order: Any) -> Any:
    """Return a view of `contents` as an array; it never occupies more than the file does."""
    match dtype:
        case Call("dtype", (code, *_), ()):
            name = _text(code)
        case Call("dtype", (code, *_), (_, byte_order, None, None, None, *_)):
            name = _text(byte_order) + _text(code)
        case _:
            raise UnsafePickleError("the dtype is not one of booleans, numbers or objects")
    if not _DTYPE.fullmatch(name):
        raise UnsafePickleError(f"dtype {name[:40]!r} is not one of booleans, numbers or objects")
    # NumPy would put any other shape into its message: a tuple of tuples, each with the one before
    # it twice, takes few bytes in a file and any amount of text.
    if not isinstance(shape, tuple) or len(shape) > _MAX_DIMENSIONS:
        raise UnsafePickleError(f"the shape is not a tuple of at most {_MAX_DIMENSIONS} numbers")
    if not all(isinstance(n, int) and n >= 0 for n in shape):
        raise UnsafePickleError("the shape has something other than whole numbers")
    if "O" in name and isinstance(contents, list) and shape == (len(contents),):
        return contents
    return np.frombuffer(contents, name).reshape(shape, order=order)


def _text(value: Any) -> str:
    """Return text, which Python 2 wrote as bytes."""
    return value if isinstance(value, str) else str(value, "ascii")


class _Dispatch:
    """Hands out the handler of each opcode, and counts them."""

    def __init__(self) -> None:
        self.opcodes = 0

    def __getitem__(self, code: int) -> Callable[[Any], object]:
        self.opcodes += 1
        if self.opcodes > MAX_OPCODES:
            raise UnsafePickleError(f"more than {MAX_OPCODES:,} opcodes")
        if code not in _HANDLERS:
            raise UnsafePickleError(f"opcode {bytes([code])!r} is not one that plain data needs")
        return _HANDLERS[code]


class _DataUnpickler(pickle._Unpickler):
    def __init__(self, file: mmap.mmap) -> None:
        super().__init__(file, encoding="bytes")
        self.file, self.contents = file, memoryview(file)
        self.dispatch = _Dispatch()  # type: ignore[assignment, misc]  # a class attribute there

    def find_class(self, module: str, name: str) -> str:
        full = f"{module}.{name}"
        if full not in NAMES:
            raise UnsafePickleError(f"it asks for {full[:80]}, which plain data does not need")
        return NAMES[full]


def _load_call(unpickler: Any) -> None:
    arguments, makes = unpickler.stack.pop(), unpickler.stack.pop()
    if makes != "bytes":
        unpickler.append(Call(makes, arguments))
        return
    # Protocols 0 to 2 spell bytes as `encode(text, "latin1")`; `_latin1` has encoded the text.
    if not isinstance(arguments, tuple) or arguments[1:] not in _LATIN1:
        raise UnsafePickleError("bytes are made from something other than Latin-1 text")
    unpickler.append(memoryview(arguments[0]) if arguments else b"")


def _load_state(unpickler: Any) -> None:
    state = unpickler.stack.pop()
    if not isinstance(unpickler.stack[-1], Call):
        raise UnsafePickleError(f"a state for a {type(unpickler.stack[-1]).__name__}")
    unpickler.stack[-1].state = state


def _byte_string(length: str) -> Callable[[Any], None]:
    """Return a handler for a byte string that follows its length, a number of this format."""
    number = struct.Struct(length)

    def load(unpickler: Any) -> None:
        file, contents = unpickler.file, unpickler.contents
        start = file.tell() + number.size
        (size,) = number.unpack_from(contents, start - number.size)
        if size > len(contents) - start:
            raise UnsafePickleError(f"{size} bytes are announced, {len(contents) - start} are left")
        unpickler.append(contents[start : start + size])
        file.seek(start + size)

    return load


def _latin1(load_text: Callable[[Any], None]) -> Callable[[Any], None]:
    """Return a handler that keeps text as bytes: it spells some, and must not be held twice."""

    def load(unpickler: Any) -> None:
        load_text(unpickler)
        unpickler.stack[-1] = unpickler.stack[-1].encode("latin1")

    return load


_STANDARD: Final = pickle._Unpickler.dispatch
_HANDLERS: Final[dict[int, Callable[[Any], object]]] = {
    **{code: _STANDARD[code] for code in b"\x80.N\x88\x89ILKMJ\x8aGS\x8c(]laet)\x85\x86\x87"},
    **{code: _STANDARD[code] for code in b"pqr\x94ghjc\x93"},
    **{code: _byte_string("<B") for code in b"UC"},
    **{code: _byte_string("<I") for code in b"TB"},
    **{code: _byte_string("<Q") for code in b"\x8e\x96"},
    **{code: _latin1(_STANDARD[code]) for code in b"VX\x8d"},
    # `float` repeats what it cannot read in its message, however long that is.
    ord("F"): lambda unpickler: unpickler.append(float(unpickler.readline()[:100])),
    ord("R"): _load_call,
    ord("b"): _load_state,
    0x95: lambda unpickler: unpickler.read(8),  # the length of a frame, useless in a mapped file
}
