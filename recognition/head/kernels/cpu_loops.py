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
from math import factorial, log, sqrt
from typing import Any

import numba
import numpy as np
from numba.extending import overload

from recognition.head.kernels.block import FIXED_MAX
from recognition.head.kernels.reference import EPSILON
from recognition.head.optim.rounding import INT8_MAX

F32 = np.float32
I32 = np.int32
U32 = np.uint32

# All flags that allow sums to be vectorised, without those that assume no NaN or infinity.
_ARITHMETIC = {"reassoc", "contract", "nsz", "arcp", "afn"}
_OPTIONS: Any = {"nogil": True, "fastmath": _ARITHMETIC, "error_model": "numpy"}
# Rows that are summed in float32 before the sums are added up in float64: sums of a whole block
# in float32 would lose three digits.
_RUN = 64
_EPSILON = F32(EPSILON)
_TINY, _LARGEST = F32(np.finfo(F32).tiny), F32(np.finfo(F32).max)
_INT8_MAX = F32(INT8_MAX)
_STEP, _HALF_STEP = F32(2.0**-16), F32(2.0**-17)  # of the 16 random bits
_MAX_POWER = F32(2.0**-FIXED_MAX)
# 2^z by its Taylor series: for |z| <= 1/2 eight terms leave 5e-9, a tenth of float32's last bit.
_T1, _T2, _T3, _T4, _T5, _T6, _T7 = (F32(log(2.0) ** k / factorial(k)) for k in range(1, 8))


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    try:
        result: Callable[..., Any] = numba.njit(cache=True, **_OPTIONS)(function)
    except RuntimeError:  # neither the package's folder nor the user's cache can be written
        result = numba.njit(**_OPTIONS)(function)
    return result


def _inlined(function: Callable[..., Any]) -> Callable[..., Any]:
    result: Callable[..., Any] = numba.njit(inline="always")(function)
    return result


@_inlined
def _rounded(bits: Any) -> Any:
    """Return the bfloat16 nearest to a float32, ties to even, both as bits."""
    return np.int16((bits + I32(0x7FFF) + ((bits >> I32(16)) & I32(1))) >> I32(16))


@_inlined
def _exponent(logit: Any) -> Any:
    """Return the integer nearest to a logit, within the range of a float32's exponent."""
    low = F32(-126.0) if logit < F32(-126.0) else logit
    near = np.floor(low + F32(0.5))  # math.floor gives 64 bits, twice the time
    return near if near < F32(127.0) else F32(127.0)  # NaN gives a number; the rest stays NaN


@_inlined
def _power_of_rest(logit: Any, exponent: Any) -> Any:
    """Return `2^(logit − exponent)`, and 0 where `2^logit` is below float32's normal numbers."""
    z = logit - exponent
    p = _T7 * z + _T6
    p = p * z + _T5
    p = p * z + _T4
    p = p * z + _T3
    p = p * z + _T2
    p = p * z + _T1
    p = p * z + F32(1.0)
    return F32(0.0) if logit < F32(-126.0) else p


@_compiled
def _widen(source: Any, half: bool, wide: Any, wide_bits: Any) -> None:
    """Convert a row to float32; `wide_bits` is the same memory as int32."""
    if half:
        for k in range(len(wide)):
            wide_bits[k] = I32(source[k]) << I32(16)
    else:
        for k in range(len(wide)):
            wide[k] = source[k]


@_compiled
def _narrow(wide: Any, wide_bits: Any, half: bool, target: Any) -> None:
    """Convert a row from float32 to the target's dtype."""
    if half:
        for k in range(len(wide)):
            target[k] = _rounded(wide_bits[k])
    else:
        for k in range(len(wide)):
            target[k] = wide[k]


@_compiled
def _buffer(size: int) -> Any:
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


@_compiled
def _chains(target_N: Any, first: int, rows: int) -> Any:
    """Return chains of samples by target row: the first of each row, the next of each sample."""
    first_R = np.full(rows, -1, np.int32)
    next_N = np.full(len(target_N), -1, np.int32)
    for n in range(len(target_N)):
        row = target_N[n] - first
        if 0 <= row < rows:
            next_N[n] = first_R[row]
            first_R[row] = n
    return first_R, next_N


@_inlined
def _inverse(square: Any) -> Any:
    """Return `1 / max(norm, 1e-12)` of a row, by the sum of its squares."""
    norm = F32(sqrt(square))
    return F32(1.0) / (_EPSILON if norm < _EPSILON else norm)


@_compiled
def _square(row_d: Any) -> Any:
    square = F32(0.0)
    for k in range(len(row_d)):
        square += row_d[k] * row_d[k]
    return square


@_inlined
def _row_now(weight: Any, momentum: Any, row: int, missed_R4: Any, r: int, buffers: Any) -> Any:
    """Return a row as it is after missed steps."""
    weight_d = _load(weight, row, buffers[0])
    if len(missed_R4) > 0 and missed_R4[r, 3] != F32(1.0):
        after_d, momentum_d = buffers[0][0], _load(momentum, row, buffers[1])
        by_weight, by_momentum = missed_R4[r, 0], missed_R4[r, 1]
        for k in range(len(after_d)):
            after_d[k] = by_weight * weight_d[k] + by_momentum * momentum_d[k]
        weight_d = after_d
    return weight_d


@_compiled
def read_rows(
    weight: Any, momentum: Any, index_R: Any, missed_R4: Any, inverse_R: Any, factor_Rd: Any,
    half: bool, copy: bool,
) -> None:  # fmt: skip
    """Find the inverse norms of the rows, and copy the rows if `copy`, as where steps were missed.

    The rows are those after these steps.
    """
    size = weight[0].shape[1]
    buffers = _buffer(size), _buffer(size)
    for r in range(len(inverse_R)):
        row = index_R[r] if len(index_R) else r
        weight_d = _row_now(weight, momentum, row, missed_R4, r, buffers)
        inverse_R[r] = _inverse(_square(weight_d))
        if copy:
            _narrow(weight_d, weight_d.view(np.int32), half, factor_Rd[r])


@_compiled
def softmax_block(
    exp_RN: Any, inverse_R: Any, target_N: Any, first: int, log2_scale: Any, limit: Any,
    sum_exp_N: Any, half: bool,
) -> None:  # fmt: skip
    """Turn products into exponentials at the fixed maximum, and add to their sums there."""
    rows, samples = exp_RN.shape
    total_N = np.empty(samples, np.float64)
    for n in range(samples):
        total_N[n] = np.float64(sum_exp_N[n])
    first_R, next_N = _chains(target_N, first, rows)
    wide_N, power_N, sum_N = np.empty(samples, F32), np.empty(samples, F32), np.zeros(samples, F32)
    wide_bits_N, power_bits_N = wide_N.view(np.int32), power_N.view(np.int32)
    for r in range(rows):
        to_logit, to_exp = inverse_R[r] * log2_scale, inverse_R[r] * _MAX_POWER
        _widen(exp_RN[r], half, wide_N, wide_bits_N)
        for n in range(samples):
            logit = wide_N[n] * to_logit
            exponent = _exponent(logit)
            rest = _power_of_rest(logit, exponent)
            wide_N[n] = F32(0.0) if logit > limit else rest
            power_bits_N[n] = (I32(exponent) + I32(127)) << I32(23)
        n = first_R[r]
        while n >= 0:
            wide_N[n] = F32(0.0)
            n = next_N[n]
        for n in range(samples):
            power = power_N[n] * wide_N[n]
            sum_N[n] += power
            wide_N[n] = power * to_exp
        _narrow(wide_N, wide_bits_N, half, exp_RN[r])
        if (r + 1) % _RUN == 0 or r + 1 == rows:
            for n in range(samples):
                total_N[n] += np.float64(sum_N[n]) * np.float64(_MAX_POWER)
                sum_N[n] = F32(0.0)
    for n in range(samples):
        sum_exp_N[n] = total_N[n]


@_compiled
def largest_exps(
    exp_RN: Any, inverse_R: Any, weight_N: Any, half: bool, logit_R: Any, sample_R: Any
) -> None:
    """Find each row's largest exponential times its sample's weight, to base 2 without it."""
    rows, samples = exp_RN.shape
    wide_N, share_N = np.empty(samples, F32), np.empty(samples, F32)
    wide_bits_N, share_bits_N = wide_N.view(np.int32), share_N.view(np.int32)
    for r in range(rows):
        _widen(exp_RN[r], half, wide_N, wide_bits_N)
        # Of numbers above 0 the bits, as integers, are in their order, and their maximum is found
        # by vectors: that of floats is not, as a NaN might be among them.
        for n in range(samples):
            share_N[n] = wide_N[n] * weight_N[n]
        largest = share_bits_N[0]
        for n in range(samples):
            share = share_bits_N[n]
            largest = share if share > largest else largest
        n = 0
        while share_bits_N[n] != largest:
            n += 1
        sample_R[r] = n
        logit_R[r] = np.log2(wide_N[n] / inverse_R[r])


@_compiled
def add_targets(
    weight: Any, momentum: Any, index_R: Any, missed_R4: Any, grad_unit_Rd: Any, target_N: Any,
    first: int, grad_Nd: Any, half: bool,
) -> None:  # fmt: skip
    """Add samples' gradients to those of their target rows."""
    rows, size = grad_unit_Rd.shape
    wide_d, wide_bits_d = _buffer(size)
    buffers = _buffer(size), _buffer(size)
    for n in range(len(target_N)):
        r = target_N[n] - first
        if not 0 <= r < rows:
            continue
        row = index_R[r] if len(index_R) else r
        inverse = _inverse(_square(_row_now(weight, momentum, row, missed_R4, r, buffers)))
        _widen(grad_unit_Rd[r], half, wide_d, wide_bits_d)
        for k in range(size):
            wide_d[k] += grad_Nd[n, k] * inverse
        _narrow(wide_d, wide_bits_d, half, grad_unit_Rd[r])


@_inlined
def _mix(word: Any) -> Any:
    """Scramble 32-bit words, as `hashing.class_hash` does."""
    word = word ^ (word >> U32(16))
    word = U32(word * U32(0x7FEB352D))
    word = word ^ (word >> U32(15))
    word = U32(word * U32(0x846CA68B))
    return word ^ (word >> U32(16))


@_inlined
def _noise_word(number: Any, first_key: Any, second_key: Any) -> Any:
    """Return the word of `RowNoise.bits` for a class id or a column's number."""
    word = _mix(U32(number) ^ first_key)
    word = _mix(U32(word + second_key))
    return (word ^ U32(0x80000000)) | U32(1)


@_compiled
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


@_compiled
def update_rows_sgd(
    weight: Any, momentum: Any, index_R: Any, missed_R4: Any, grad_unit_Rd: Any, lr: Any,
    factor: Any, weight_decay: Any, nesterov: bool, half: bool, class_R: Any, weight_keys: Any,
    momentum_keys: Any,
) -> None:  # fmt: skip
    """Update rows in the tables, after the steps that they missed.

    `factor` is the momentum's. Class ids, and the noise's keys, uint32 [2], are read for rounding.
    """
    rows, size = grad_unit_Rd.shape
    grad_unit_d, grad_unit_bits_d = _buffer(size)
    weight_buffer, velocity_buffer = _buffer(size), _buffer(size)
    weight_noise, velocity_noise = _noise(size, weight_keys), _noise(size, momentum_keys)
    for r in range(rows):
        row = index_R[r] if len(index_R) else r
        class_id = class_R[r] if len(class_R) else 0
        _widen(grad_unit_Rd[r], half, grad_unit_d, grad_unit_bits_d)
        weight_d = _load(weight, row, weight_buffer)
        velocity_d = _load(momentum, row, velocity_buffer)
        if len(missed_R4) > 0 and missed_R4[r, 3] != F32(1.0):
            a, b, c, d = missed_R4[r, 0], missed_R4[r, 1], missed_R4[r, 2], missed_R4[r, 3]
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
