"""The values that `safe_pickle` makes: arrays, their dtypes, byte strings.

NumPy and Python 2 spell these in a pickle as calls of a few functions. `BUILDERS` holds this
project's own function for each such name; NumPy's are never called with what a file says.
"""

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

MAX_SIDES: Final = 8


class UnsafePickleError(ValueError):
    """The bytes are not a pickle of plain data; the message has the offset and what was found."""


class PickledArray:
    """A NumPy array found in a pickle.

    Attributes:
        values: an array of booleans, integers or floats; or a list, for an array of objects.
            None until the pickle has delivered the contents.
    """

    def __init__(self) -> None:
        self.values: NDArray[np.generic] | list[object] | None = None


class DType:
    """A dtype under construction: its code (`u1`), then its byte order from a second opcode."""

    def __init__(self, code: str) -> None:
        if code[:1] not in "buifO" or not code[1:].isdecimal() or int(code[1:]) > 8:
            raise UnsafePickleError(
                f"an array of dtype {code[:40]!r}: expected booleans, numbers or objects"
            )
        self.code = code
        self.order = "="

    def set_order(self, order: str) -> None:
        """Take over a byte order; NumPy would take a whole description of records for one."""
        if order not in ("<", ">", "=", "|"):
            raise UnsafePickleError(f"a byte order of {order[:40]!r}: expected <, >, = or |")
        self.order = order

    def is_object(self) -> bool:
        """Return whether the elements are Python objects."""
        return self.code[0] == "O"

    def numpy(self) -> np.dtype[np.generic]:
        """Return NumPy's dtype; raises `TypeError` for a code that NumPy does not know."""
        return np.dtype(self.order + self.code)


def text(value: object) -> str:
    """Return a short name that Python 2 wrote as bytes and Python 3 as text."""
    if isinstance(value, memoryview):
        return bytes(value).decode("ascii")
    if isinstance(value, str):
        return value
    raise UnsafePickleError(f"a {type(value).__name__} where a name is expected")


def array(
    contents: object, dtype: object, shape: object, order: str
) -> NDArray[np.generic] | list[object]:
    """Return a view of `contents` as an array; numbers never occupy more than the file does."""
    if not isinstance(dtype, DType) or not isinstance(shape, tuple):
        raise UnsafePickleError("an array without dtype or shape")
    # Nothing else may come into a message: tuples of tuples, each twice the last one, are few bytes
    # in a file and no end of text.
    if len(shape) > MAX_SIDES or not all(isinstance(n, int) and 0 <= n < 1 << 62 for n in shape):
        raise UnsafePickleError(
            f"an array whose shape is a tuple of {len(shape)} items: expected at most {MAX_SIDES} "
            "whole numbers from 0 on"
        )
    if dtype.is_object():
        if not isinstance(contents, list) or shape != (len(contents),):
            raise UnsafePickleError(f"an array of objects of shape {shape}: expected one dimension")
        return contents
    if not isinstance(contents, memoryview):
        raise UnsafePickleError(f"array contents are a {type(contents).__name__}: expected bytes")
    flat = np.frombuffer(contents, dtype=dtype.numpy())
    return flat.reshape(shape, order="F" if order == "F" else "C")


def _reconstruct(*_: object) -> PickledArray:
    return PickledArray()


def _from_buffer(contents: object, dtype: object, shape: object, order: object) -> PickledArray:
    result = PickledArray()
    result.values = array(contents, dtype, shape, text(order))
    return result


def _scalar(dtype: object, contents: object) -> object:
    values = array(contents, dtype, (1,), "C")
    if not isinstance(values, np.ndarray):
        raise UnsafePickleError("a scalar that is an object: expected a number")
    return values.item()


def _dtype(code: object, *_: object) -> DType:
    return DType(text(code))


def _bytes(value: object = None, encoding: object = "latin1") -> memoryview:
    """Return the bytes that protocols 0 to 2 spell as text: `encode(text, "latin1")`."""
    if value is None:
        return memoryview(b"")
    if isinstance(value, memoryview):
        return value
    if not isinstance(value, str) or text(encoding) not in ("latin1", "latin-1"):
        raise UnsafePickleError(
            f"bytes from a {type(value).__name__} in {text(encoding)[:40]!r}: expected latin1"
        )
    return memoryview(value.encode("latin1"))


BUILDERS: Final[dict[str, Callable[..., object]]] = {
    "_codecs.encode": _bytes,
    "__builtin__.bytearray": _bytes,
    "__builtin__.bytes": _bytes,
    "builtins.bytearray": _bytes,
    "builtins.bytes": _bytes,
    "numpy.dtype": _dtype,
    "numpy.ndarray": _reconstruct,
    "numpy.core.multiarray._reconstruct": _reconstruct,
    "numpy._core.multiarray._reconstruct": _reconstruct,
    "numpy.core.multiarray.scalar": _scalar,
    "numpy._core.multiarray.scalar": _scalar,
    "numpy.core.numeric._frombuffer": _from_buffer,
    "numpy._core.numeric._frombuffer": _from_buffer,
}
