"""A reader of pickles that can build data and nothing else.

Verification sets travel as pickles from strangers, and `pickle.load` runs whatever program a
pickle contains. `loads` interprets the pickle's opcodes itself (protocols 0 to 5, documented in
Python's `pickletools`) and knows only those that make lists, tuples, byte strings, text, numbers,
booleans and None, plus the few function names with which NumPy and Python 2 spell arrays and byte
strings. Those names select code of this file: nothing is imported, no attribute is set, nothing
named in the file is called. Any other opcode or name is refused before anything happens.

Byte strings come back as views of the input, so a mapped file is not copied. Work and memory are
at most proportional to the input: a memo index, a length or a shape that promises more than the
file holds is an error, not an allocation.
"""

import re
import struct
from collections.abc import Callable
from typing import Final

from data.pairs.pickle_values import BUILDERS, DType, PickledArray, UnsafePickleError, array, text

MAX_OPCODES: Final = 3_000_000  # a set of 100,000 pairs takes about half a million


class _Name:
    """A global name that was looked up; only `reduce` gives it a meaning."""

    def __init__(self, name: str) -> None:
        self.name = name


def loads(data: bytes | memoryview) -> object:
    """Return what the pickle `data` describes.

    The result consists of lists, tuples, `memoryview` (every byte string), `str`, `int`, `float`,
    `bool`, `None` and `PickledArray`. Bytes after the end of the pickle are ignored, as `pickle`
    ignores them. Raises `UnsafePickleError` for anything else and for damaged input.
    """
    machine = _Machine(memoryview(data))
    try:
        return machine.run()
    except UnsafePickleError as error:
        raise UnsafePickleError(f"at byte {machine.start}: {error}") from None
    except (IndexError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise UnsafePickleError(
            f"at byte {machine.start}: damaged pickle ({str(error)[:200]})"
        ) from None


class _Machine:
    """The pickle virtual machine: a stack, marks on it, and a memo."""

    def __init__(self, data: memoryview) -> None:
        self.data = data
        self.position = 0
        self.start = 0  # of the opcode in work, for messages
        self.stack: list[object] = []
        self.marks: list[int] = []
        self.memo: dict[int, object] = {}
        self.built = 0  # bytes that calls have made

    def run(self) -> object:
        for _ in range(MAX_OPCODES):
            self.start = self.position
            opcode = bytes(self.read(1))
            if opcode == b".":
                return self.stack.pop()
            if opcode not in _OPCODES:
                raise UnsafePickleError(f"opcode {opcode!r} is not one that plain data needs")
            _OPCODES[opcode](self)
        raise UnsafePickleError(f"more than {MAX_OPCODES:,} opcodes")

    def read(self, size: int) -> memoryview:
        if size < 0 or size > len(self.data) - self.position:
            left = len(self.data) - self.position
            raise UnsafePickleError(
                f"{size} bytes are announced, {left} are left: truncated or damaged"
            )
        self.position += size
        return self.data[self.position - size : self.position]

    def unpack(self, code: str) -> int:
        (value,) = struct.unpack("<" + code, self.read(struct.calcsize("<" + code)))
        return int(value)

    def line(self) -> bytes:
        begin, block = self.position, b""
        while b"\n" not in block:
            block = bytes(self.read(min(4096, max(len(self.data) - self.position, 1))))
        self.position += block.index(b"\n") + 1 - len(block)
        return bytes(self.data[begin : self.position - 1])

    def push(self, value: object) -> None:
        self.stack.append(value)

    def pop_list(self) -> list[object]:
        """Return what lies above the last mark and drop the mark."""
        mark = self.marks.pop()
        items = self.stack[mark:]
        del self.stack[mark:]
        return items

    def extend(self, items: list[object]) -> None:
        target = self.stack[-1]
        if not isinstance(target, list):
            raise UnsafePickleError(f"items are added to a {type(target).__name__}, not to a list")
        target.extend(items)

    def find(self, module: str, name: str) -> None:
        full = f"{module}.{name}"
        if full not in BUILDERS:
            raise UnsafePickleError(f"it asks for {full[:80]}, which plain data does not need")
        self.push(_Name(full))

    def reduce(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if not isinstance(function, _Name) or not isinstance(arguments, tuple):
            raise UnsafePickleError("a call of something that is not a function's name")
        value = BUILDERS[function.name](*arguments)
        # A text kept in the memo could be turned into bytes any number of times.
        self.built += len(value) if isinstance(value, memoryview) else 0
        if self.built > len(self.data):
            raise UnsafePickleError("more bytes are built than the file holds")
        self.push(value)

    def build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if not isinstance(state, tuple):
            raise UnsafePickleError(f"a state of type {type(state).__name__}: expected a tuple")
        if isinstance(target, DType):
            _, order, subarray, names, fields = state[:5]
            if (subarray, names, fields) != (None, None, None):
                raise UnsafePickleError(
                    "an array of records: expected booleans, numbers or objects"
                )
            target.set_order(text(order))
        elif isinstance(target, PickledArray):
            _, shape, dtype, column_order, contents = state
            target.values = array(contents, dtype, shape, "F" if column_order else "C")
        else:
            raise UnsafePickleError(f"a state for a {type(target).__name__}: only arrays have one")


_Step = Callable[[_Machine], None]

# All that Python 2's repr of a byte string escapes.
_ESCAPE: Final = re.compile(rb"\\(x[0-9a-f]{2}|[\\'\"nrt])")
_ESCAPED: Final = {b"\\": b"\\", b"'": b"'", b'"': b'"', b"n": b"\n", b"r": b"\r", b"t": b"\t"}


def _unescape(line: bytes) -> memoryview:
    """Return the bytes of a quoted Python 2 string."""
    if len(line) < 2 or line[:1] not in (b"'", b'"') or line[:1] != line[-1:]:
        raise UnsafePickleError("a byte string without quotes")

    def plain(match: re.Match[bytes]) -> bytes:
        escape = match[1]
        return _ESCAPED[escape] if escape in _ESCAPED else bytes([int(escape[1:], 16)])

    return memoryview(_ESCAPE.sub(plain, line[1:-1]))


def _constant(value: object) -> _Step:
    return lambda machine: machine.push(value)


def _number(code: str) -> _Step:
    return lambda machine: machine.push(machine.unpack(code))


def _bytes_of(code: str) -> _Step:
    return lambda machine: machine.push(machine.read(machine.unpack(code)))


def _text_of(code: str) -> _Step:
    return lambda machine: machine.push(
        bytes(machine.read(machine.unpack(code))).decode("utf-8", "surrogatepass")
    )


def _tuple_of(size: int) -> _Step:
    def step(machine: _Machine) -> None:
        items = [machine.stack.pop() for _ in range(size)]
        machine.push(tuple(reversed(items)))

    return step


def _put(index: Callable[[_Machine], int]) -> _Step:
    def step(machine: _Machine) -> None:
        machine.memo[index(machine)] = machine.stack[-1]

    return step


def _get(index: Callable[[_Machine], int]) -> _Step:
    return lambda machine: machine.push(machine.memo[index(machine)])


def _line_number(machine: _Machine) -> int | bool:
    line = machine.line()
    return {b"00": False, b"01": True}.get(line, int(line.rstrip(b"L")))


def _stack_global(machine: _Machine) -> None:
    name, module = machine.stack.pop(), machine.stack.pop()
    machine.find(text(module), text(name))


_OPCODES: Final[dict[bytes, _Step]] = {
    b"\x80": lambda machine: _check_protocol(machine.unpack("B")),
    b"\x95": lambda machine: _ignore(machine.unpack("Q")),  # a frame's length
    # constants, numbers
    b"N": _constant(None),
    b"\x88": _constant(True),
    b"\x89": _constant(False),
    b"I": lambda machine: machine.push(_line_number(machine)),
    b"L": lambda machine: machine.push(_line_number(machine)),
    b"K": _number("B"),
    b"M": _number("H"),
    b"J": _number("i"),
    b"\x8a": lambda machine: machine.push(
        int.from_bytes(machine.read(machine.unpack("B")), "little", signed=True)
    ),
    b"F": lambda machine: machine.push(float(machine.line())),
    b"G": lambda machine: machine.push(struct.unpack(">d", machine.read(8))[0]),
    # byte strings (S, T and U are Python 2's `str`)
    b"S": lambda machine: machine.push(_unescape(machine.line())),
    b"T": _bytes_of("i"),
    b"U": _bytes_of("B"),
    b"C": _bytes_of("B"),
    b"B": _bytes_of("I"),
    b"\x8e": _bytes_of("Q"),
    b"\x96": _bytes_of("Q"),
    # text
    b"V": lambda machine: machine.push(machine.line().decode("raw-unicode-escape")),
    b"\x8c": _text_of("B"),
    b"X": _text_of("I"),
    b"\x8d": _text_of("Q"),
    # lists and tuples
    b"(": lambda machine: machine.marks.append(len(machine.stack)),
    b"]": lambda machine: machine.push([]),
    b"l": lambda machine: machine.push(machine.pop_list()),
    b"a": lambda machine: machine.extend([machine.stack.pop()]),
    b"e": lambda machine: machine.extend(machine.pop_list()),
    b")": _constant(()),
    b"t": lambda machine: machine.push(tuple(machine.pop_list())),
    b"\x85": _tuple_of(1),
    b"\x86": _tuple_of(2),
    b"\x87": _tuple_of(3),
    # the memo
    b"p": _put(lambda machine: int(machine.line())),
    b"q": _put(lambda machine: machine.unpack("B")),
    b"r": _put(lambda machine: machine.unpack("I")),
    b"\x94": _put(lambda machine: len(machine.memo)),
    b"g": _get(lambda machine: int(machine.line())),
    b"h": _get(lambda machine: machine.unpack("B")),
    b"j": _get(lambda machine: machine.unpack("I")),
    # names, calls and states, all of them fixed in this file
    b"c": lambda machine: machine.find(_ascii(machine.line()), _ascii(machine.line())),
    b"\x93": _stack_global,
    b"R": lambda machine: machine.reduce(),
    b"b": lambda machine: machine.build(),
}


def _ascii(line: bytes) -> str:
    return line.decode("ascii")


def _ignore(_: object) -> None:
    pass


def _check_protocol(version: int) -> None:
    if version > 5:
        raise UnsafePickleError(f"pickle protocol {version}: expected 0 to 5")
