"""Reads the pickle in a weight file without calling anything.

A file of `torch.save` is a pickle that says how to build its tensors, with their numbers next to
it. Python's unpickler would run whatever program a stranger wrote there. torch's own restricted
one, `weights_only=True`, still calls `bytearray(12_000_000_000)` or `torch.FloatTensor(10**10)`
for it. Here names stay text and calls become `Call`s, so the result is plain values, and what a
file holds besides weights is neither needed nor made.

`pickle.Unpickler` cannot be restricted in this way: it is written in C, and fills 64 GiB for a memo
index of 2**32 - 1. `pickle._Unpickler` is the same reader in Python.
"""

import io
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

MAX_OPCODES: Final = 300_000  # r100 takes 31,000, and as much again for each optimizer state


class WeightFileError(ValueError):
    """A file that holds no weights, or damaged ones; the message is the reason alone."""


@dataclass(frozen=True, eq=False, slots=True)
class Call:
    """A call that a pickle asks for, and that is never made."""

    function: object  # its full name, if the pickle is sound
    arguments: object


def load_plain(
    file: io.BytesIO, load_reference: Callable[[object], object] | None = None
) -> object:
    """Return what the next pickle in `file` describes, and leave the position after it.

    The result consists of dicts with text as keys (other keys are left out: they name no weights),
    lists, tuples, `str`, `bytes`, numbers, `None`, `Call`, and what `load_reference` makes of
    persistent ids, which refer to what is stored outside of the pickle. A dict or list may contain
    itself. Time and memory are at most proportional to the size of the pickle. Raises
    `WeightFileError` for a pickle that weights do not need, and almost anything for a damaged one.
    """
    return _PlainUnpickler(file, load_reference).load()


class _Dispatch:
    """Hands out the handler of each opcode, and counts them."""

    def __init__(self) -> None:
        self.opcodes = 0

    def __getitem__(self, code: int) -> Callable[[Any], object]:
        self.opcodes += 1
        if self.opcodes > MAX_OPCODES:
            raise WeightFileError(f"its pickle has more than {MAX_OPCODES:,} opcodes")
        if code not in _HANDLERS:
            raise WeightFileError(
                f"its pickle has opcode {bytes([code])!r}, which weights do not need"
            )
        return _HANDLERS[code]


class _PlainUnpickler(pickle._Unpickler):
    def __init__(self, file: io.BytesIO, load_reference: Callable[[object], object] | None) -> None:
        super().__init__(file, encoding="latin1")  # Python 2 wrote names as bytes
        self.dispatch = _Dispatch()  # type: ignore[assignment, misc]  # a class attribute there
        self._load_reference = load_reference

    def find_class(self, module: str, name: str) -> str:
        return f"{module}.{name}"

    def persistent_load(self, pid: object) -> object:
        if self._load_reference is None:
            raise WeightFileError("its pickle refers to a tensor where none belongs")
        return self._load_reference(pid)


def _load_call(unpickler: Any) -> None:
    arguments, function = unpickler.stack.pop(), unpickler.stack.pop()
    is_dict = function == "collections.OrderedDict" and arguments == ()
    unpickler.append({} if is_dict else Call(function, arguments))


def _set_items(unpickler: Any, items: list[object]) -> None:
    """Put keys and values, in turn, into the dict at the top of the stack.

    Only text is hashed. The hash of nested tuples takes exponential time, or the whole C stack.
    """
    target = unpickler.stack[-1]
    if isinstance(target, Call):
        return  # an object of a class that behaves like a dict
    if type(target) is not dict:
        raise WeightFileError(f"its pickle puts an item into a {type(target).__name__}")
    target.update(
        (key, value)
        for key, value in zip(items[::2], items[1::2], strict=True)
        if isinstance(key, str)
    )


def _load_item(unpickler: Any) -> None:
    value, key = unpickler.stack.pop(), unpickler.stack.pop()
    _set_items(unpickler, [key, value])


_STANDARD: Final = pickle._Unpickler.dispatch
_HANDLERS: Final[dict[int, Callable[[Any], object]]] = {
    # Numbers, text, bytes, tuples and lists.
    **{code: _STANDARD[code] for code in b"\x80.N\x88\x89JKM\x8aGX\x8cUTCB]ae)(t\x85\x86\x87}"},
    **{code: _STANDARD[code] for code in b"qr\x94hjc\x93Q"},  # the memo, names, persistent ids
    ord("R"): _load_call,
    0x81: _load_call,  # a new object
    ord("b"): lambda unpickler: unpickler.stack.pop(),  # the state of one, such as its version
    ord("s"): _load_item,
    ord("u"): lambda unpickler: _set_items(unpickler, unpickler.pop_mark()),
    0x95: lambda unpickler: unpickler.read(8),  # the length of a frame
}
