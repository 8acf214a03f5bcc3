"""Loops over a block's rows that Numba compiles for this CPU. Needs Numba.

Each function runs on one thread without the interpreter's lock; `online_softmax.threads` runs
several in parallel. Where torch makes a dozen passes over a block, each number is read and written
once, and rows of the table are updated in place.

NumPy has no bfloat16: such arrays come as int16 with the same bits, and `half` says so.
A table is a tuple: its numbers, [L, d] of float32, int16 or int8 (`optim.storage`), and, [0, 1]
unless it is int8, the scales of its rows, float32 [L, 1], and these as int32. Numba compiles a loop
for each of the types.

Shapes: L rows of the table, R rows of a block, N samples, d embedding size.
"""

from collections.abc import Callable
from math import sqrt
from typing import Any

import numba
import numpy as np
from numba.extending import overload

from recognition.head.kernels.reference import EPSILON
from recognition.head.optim.rounding import INT8_MAX

F32 = np.float32
I32 = np.int32
U32 = np.uint32

# All flags that allow sums to be vectorised, without those that assume no NaN or infinity.
_ARITHMETIC = {"reassoc", "contract", "nsz", "arcp", "afn"}
_OPTIONS: Any = {"nogil": True, "fastmath": _ARITHMETIC, "error_model": "numpy"}
_EPSILON = F32(EPSILON)
_TINY, _LARGEST = F32(np.finfo(F32).tiny), F32(np.finfo(F32).max)
_INT8_MAX = F32(INT8_MAX)
_STEP, _HALF_STEP = F32(2.0**-16), F32(2.0**-17)  # of the 16 random bits


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a loop, once for all processes where it can be kept."""
    try:
        result: Callable[..., Any] = numba.njit(cache=True, **_OPTIONS)(function)
    except RuntimeError:  # neither the package's folder nor the user's cache can be written
        result = numba.njit(**_OPTIONS)(function)
    return result


def inlined(function: Callable[..., Any]) -> Callable[..., Any]:
    """Make a function a part of the loops that call it."""
    result: Callable[..., Any] = numba.njit(inline="always")(function)
    return result


@inlined
def _rounded(bits: Any) -> Any:
    """Return the bfloat16 nearest to a float32, ties to even, both as bits."""
    return np.int16((bits + I32(0x7FFF) + ((bits >> I32(16)) & I32(1))) >> I32(16))


@compiled
def widen(source: Any, half: bool, wide: Any, wide_bits: Any) -> None:
    """Convert a row to float32; `wide_bits` is the same memory as int32."""
    if half:
        for k in range(len(wide)):
            wide_bits[k] = I32(source[k]) << I32(16)
    else:
        for k in range(len(wide)):
            wide[k] = source[k]


@compiled
def narrow(wide: Any, wide_bits: Any, half: bool, target: Any) -> None:
    """Convert a row from float32 to the target's dtype."""
    if half:
        for k in range(len(wide)):
            target[k] = _rounded(wide_bits[k])
    else:
        for k in range(len(wide)):
            target[k] = wide[k]


@compiled
def buffer(size: int) -> Any:
    """Return memory for a row, as float32 and as int32."""
    wide = np.empty(size, F32)
    return wide, wide.view(np.int32)


def _load(table: Any, row: int, buffer: Any) -> Any:
    """Return a table's row in float32: itself where it is kept so, else in the buffer."""


@overload(_load, jit_options=_OPTIONS)
def _load_as_kept(table: Any, row: int, buffer: Any) -> Any:
    def load_float32(table: Any, row: int, buffer: Any) -> Any:
        return table[0][row]

    def load_bfloat16(table: Any, row: int, buffer: Any) -> Any:
        number_LD, (wide, wide_bits) = table[0], buffer
        for k in range(len(wide)):
            wide_bits[k] = I32(number_LD[row, k]) << I32(16)
        return wide

    def load_int8(table: Any, row: int, buffer: Any) -> Any:
        number_LD, wide, scale = table[0], buffer[0], table[1][row, 0]
        for k in range(len(wide)):
            wide[k] = F32(number_LD[row, k]) * scale
        return wide

    forms = {"float32": load_float32, "int16": load_bfloat16, "int8": load_int8}
    return forms[table[0].dtype.name]


@inlined
def _inverse(square: Any) -> Any:
    """Return `1 / max(norm, 1e-12)` of a row, by the sum of its squares."""
    norm = F32(sqrt(square))
    return F32(1.0) / (_EPSILON if norm < _EPSILON else norm)


@compiled
def _square(row_d: Any) -> Any:
    square = F32(0.0)
    for k in range(len(row_d)):
        square += row_d[k] * row_d[k]
    return square


@inlined
def _has_missed(missed: Any, r: int) -> Any:
    """Return whether a row has missed a step that would have changed it."""
    return len(missed[0]) > 0 and missed[1][missed[0][r], 3] != 1.0


@compiled
def _move(weight_d: Any, momentum_d: Any, factor_4: Any, after_d: Any) -> Any:
    """Write a row as it is after missed steps; return the sum of its squares."""
    by_weight, by_momentum, square = F32(factor_4[0]), F32(factor_4[1]), F32(0.0)
    for k in range(len(after_d)):
        after = by_weight * weight_d[k] + by_momentum * momentum_d[k]
        after_d[k] = after
        square += after * after
    return square


@inlined
def _row_now(
    weight: Any, momentum: Any, row: int, missed: Any, r: int, buffers: Any, after_d: Any
) -> Any:
    """Return a row as it is after missed steps, and the sum of its squares.

    It is in `after_d` if there were any.
    """
    weight_d = _load(weight, row, buffers[0])
    if _has_missed(missed, r):
        momentum_d = _load(momentum, row, buffers[1])
        square = _move(weight_d, momentum_d, missed[1][missed[0][r]], after_d)
        return after_d, square
    return weight_d, _square(weight_d)


def _own(copy_Rd: Any, r: int, other_d: Any) -> Any:
    """Return a copy's row where it is float32, else other memory."""


@overload(_own, jit_options=_OPTIONS)
def _own_if_float32(copy_Rd: Any, r: int, other_d: Any) -> Any:
    def own(copy_Rd: Any, r: int, other_d: Any) -> Any:
        return copy_Rd[r]

    def other(copy_Rd: Any, r: int, other_d: Any) -> Any:
        return other_d

    return own if copy_Rd.dtype.name == "float32" else other


@compiled
def read_rows(
    weight: Any, momentum: Any, index_R: Any, missed: Any, inverse_R: Any, factor_Rd: Any,
    half: bool, copy: bool,
) -> None:  # fmt: skip
    """Find the inverse norms of the rows, and copy the rows if `copy`, as where steps were missed.

    The rows are those after these steps. Each number is read once: this runs as fast as memory is.
    """
    size = weight[0].shape[1]
    buffers, (spare_d, _) = (buffer(size), buffer(size)), buffer(size)
    for r in range(len(inverse_R)):
        row = index_R[r] if len(index_R) else r
        after_d = _own(factor_Rd, r, spare_d)
        row_d, square = _row_now(weight, momentum, row, missed, r, buffers, after_d)
        inverse_R[r] = _inverse(square)
        if copy and (half or not _has_missed(missed, r)):
            narrow(row_d, row_d.view(np.int32), half, factor_Rd[r])


@compiled
def add_targets(
    weight: Any, momentum: Any, index_R: Any, missed: Any, grad_unit_Rd: Any, target_N: Any,
    first: int, grad_Nd: Any, half: bool,
) -> None:  # fmt: skip
    """Add samples' gradients to those of their target rows."""
    rows, size = grad_unit_Rd.shape
    wide_d, wide_bits_d = buffer(size)
    buffers, (after_d, _) = (buffer(size), buffer(size)), buffer(size)
    for n in range(len(target_N)):
        r = target_N[n] - first
        if not 0 <= r < rows:
            continue
        row = index_R[r] if len(index_R) else r
        _, square = _row_now(weight, momentum, row, missed, r, buffers, after_d)
        inverse = _inverse(square)
        widen(grad_unit_Rd[r], half, wide_d, wide_bits_d)
        for k in range(size):
            wide_d[k] += grad_Nd[n, k] * inverse
        narrow(wide_d, wide_bits_d, half, grad_unit_Rd[r])


@inlined
def _mix(word: Any) -> Any:
    """Scramble 32-bit words, as `hashing.class_hash` does."""
    word = word ^ (word >> U32(16))
    word = U32(word * U32(0x7FEB352D))
    word = word ^ (word >> U32(15))
    word = U32(word * U32(0x846CA68B))
    return word ^ (word >> U32(16))


@inlined
def _noise_word(number: Any, first_key: Any, second_key: Any) -> Any:
    """Return the word of `RowNoise.bits` for a class id or a column's number."""
    word = _mix(U32(number) ^ first_key)
    word = _mix(U32(word + second_key))
    return (word ^ U32(0x80000000)) | U32(1)


@compiled
def _noise(size: int, keys: Any) -> Any:
    """Return a tensor's keys and the words of its columns, uint32 [D]."""
    word_D = np.empty(size, np.uint32)
    for k in range(size):
        word_D[k] = _noise_word(-1 - k, keys[0], keys[1])
    return keys, word_D


def _store(buffer: Any, class_id: int, noise: Any, table: Any, row: int) -> None:
    """Put a row from `_load` back, rounded stochastically as in `optim.rounding`."""


@overload(_store, jit_options=_OPTIONS)
def _store_as_kept(buffer: Any, class_id: int, noise: Any, table: Any, row: int) -> Any:
    def store_float32(buffer: Any, class_id: int, noise: Any, table: Any, row: int) -> None:
        pass  # it was changed in place

    def store_bfloat16(buffer: Any, class_id: int, noise: Any, table: Any, row: int) -> None:
        number_LD, (wide, wide_bits), (keys, word_D) = table[0], buffer, noise
        word = _noise_word(class_id, keys[0], keys[1])
        for k in range(len(wide)):
            # 16 random bits are added to what will be cut off.
            bits = I32(0x7FC00000) if wide[k] != wide[k] else wide_bits[k]
            carry = I32(U32(word * word_D[k]) >> U32(16))
            number_LD[row, k] = np.int16((bits + carry) >> I32(16))

    def store_int8(buffer: Any, class_id: int, noise: Any, table: Any, row: int) -> None:
        (number_LD, scale_L1, scale_bits_L1), (wide, wide_bits) = table, buffer
        keys, word_D = noise
        word = _noise_word(class_id, keys[0], keys[1])
        # Without a sign the bits of floats, as integers, are in order, NaN above infinity.
        largest = I32(0)
        for k in range(len(wide)):
            bits = I32(wide_bits[k] & I32(0x7FFFFFFF))
            largest = bits if bits > largest else largest
        scale_bits_L1[row, 0] = largest
        scale = scale_L1[row, 0] / _INT8_MAX
        scale = F32(0.0) if scale < _TINY else scale
        scale_L1[row, 0] = scale
        if not F32(0.0) < scale <= _LARGEST:
            number_LD[row] = np.int8(0)
            return
        inverse = F32(1.0) / scale
        for k in range(len(wide)):
            up = F32(I32(U32(word * word_D[k]) >> U32(16))) * _STEP + _HALF_STEP
            number = np.floor(wide[k] * inverse + up)
            number = number if number < _INT8_MAX else _INT8_MAX
            number = number if number > -_INT8_MAX else -_INT8_MAX
            number_LD[row, k] = np.int8(I32(number))

    forms = {"float32": store_float32, "int16": store_bfloat16, "int8": store_int8}
    return forms[table[0].dtype.name]


@compiled
def update_rows_sgd(
    weight: Any, momentum: Any, index_R: Any, missed: Any, grad_unit_Rd: Any, lr: Any,
    factor: Any, weight_decay: Any, nesterov: bool, half: bool, class_R: Any, weight_keys: Any,
    momentum_keys: Any,
) -> None:  # fmt: skip
    """Update rows in the tables, after the steps that they missed.

    `factor` is the momentum's. Class ids, and the noise's keys, uint32 [2], are read for rounding.
    """
    rows, size = grad_unit_Rd.shape
    grad_unit_d, grad_unit_bits_d = buffer(size)
    weight_buffer, velocity_buffer = buffer(size), buffer(size)
    weight_noise, velocity_noise = _noise(size, weight_keys), _noise(size, momentum_keys)
    for r in range(rows):
        row = index_R[r] if len(index_R) else r
        class_id = class_R[r] if len(class_R) else 0
        widen(grad_unit_Rd[r], half, grad_unit_d, grad_unit_bits_d)
        weight_d = _load(weight, row, weight_buffer)
        velocity_d = _load(momentum, row, velocity_buffer)
        if _has_missed(missed, r):
            factor_4 = missed[1][missed[0][r]].astype(F32)
            a, b, c, d = factor_4[0], factor_4[1], factor_4[2], factor_4[3]
            for k in range(size):
                before = weight_d[k]
                weight_d[k] = a * before + b * velocity_d[k]
                velocity_d[k] = c * before + d * velocity_d[k]
        along, square = F32(0.0), F32(0.0)
        for k in range(size):
            along += grad_unit_d[k] * weight_d[k]
            square += weight_d[k] * weight_d[k]
        inverse = _inverse(square)
        along = weight_decay - along * inverse * inverse
        for k in range(size):
            grad = grad_unit_d[k] + along * weight_d[k]
            velocity = factor * velocity_d[k] + grad
            velocity_d[k] = velocity
            weight_d[k] -= lr * (grad + factor * velocity if nesterov else velocity)
        _store(weight_buffer, class_id, weight_noise, weight, row)
        _store(velocity_buffer, class_id, velocity_noise, momentum, row)
