"""Loops over a block's rows that Numba compiles for this CPU. Needs Numba.

Each function runs on one thread without the interpreter's lock; `online_softmax.threads` runs
several in parallel. Where torch makes a dozen passes over a block, each number is read and written
once, and rows of the table are updated in place.

NumPy has no bfloat16: such arrays come as int16 with the same bits, and `half` says so.

Shapes: L rows of the table, R rows of a block, N samples, d embedding size.
"""

from collections.abc import Callable
from math import factorial, log, sqrt
from typing import Any

import numba
import numpy as np

from recognition.head.kernels.block import FIXED_MAX
from recognition.head.kernels.reference import EPSILON

F32 = np.float32
I32 = np.int32
U32 = np.uint32

# All flags that allow sums to be vectorised, without those that assume no NaN or infinity.
_ARITHMETIC = {"reassoc", "contract", "nsz", "arcp", "afn"}
# Rows that are summed in float32 before the sums are added up in float64: sums of a whole block
# in float32 would lose three digits.
_RUN = 64
_EPSILON = F32(EPSILON)
_MAX_POWER = F32(2.0**-FIXED_MAX)
# 2^z by its Taylor series: for |z| <= 1/2 eight terms leave 5e-9, a tenth of float32's last bit.
_T1, _T2, _T3, _T4, _T5, _T6, _T7 = (F32(log(2.0) ** k / factorial(k)) for k in range(1, 8))


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    options: dict[str, Any] = {"nogil": True, "fastmath": _ARITHMETIC, "error_model": "numpy"}
    try:
        result: Callable[..., Any] = numba.njit(cache=True, **options)(function)
    except RuntimeError:  # neither the package's folder nor the user's cache can be written
        result = numba.njit(**options)(function)
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
def _made_up(weight_d: Any, momentum_d: Any, missed_4: Any, after_d: Any) -> Any:
    """Write a row as it is after missed steps; return the sum of its squares."""
    by_weight, by_momentum = missed_4[0], missed_4[1]
    square = F32(0.0)
    for k in range(len(weight_d)):
        weight = by_weight * weight_d[k] + by_momentum * momentum_d[k]
        after_d[k] = weight
        square += weight * weight
    return square


@_compiled
def read_rows(
    weight_Ld: Any, bits_Ld: Any, index_R: Any, inverse_R: Any, factor_Rd: Any, half: bool,
    copy: bool, momentum_Ld: Any, half_momentum: bool, missed_R4: Any,
) -> None:  # fmt: skip
    """Find the inverse norms of the rows, and copy the rows if `copy`.

    `bits_Ld` is the table's memory as int32. Where steps were missed, the rows are those after
    them, and are copied.
    """
    size = weight_Ld.shape[1]
    made_up = len(missed_R4) > 0
    weight_d, momentum_d = np.empty(size, F32), np.empty(size, F32)
    weight_bits_d, momentum_bits_d = weight_d.view(np.int32), momentum_d.view(np.int32)
    for r in range(len(inverse_R)):
        row = index_R[r] if len(index_R) else r
        square = F32(0.0)
        if made_up and missed_R4[r, 1] != F32(0.0):
            _widen(momentum_Ld[row], half_momentum, momentum_d, momentum_bits_d)
            square = _made_up(weight_Ld[row], momentum_d, missed_R4[r], weight_d)
            _narrow(weight_d, weight_bits_d, half, factor_Rd[r])
        else:
            for k in range(size):
                square += weight_Ld[row, k] * weight_Ld[row, k]
            if copy:
                _narrow(weight_Ld[row], bits_Ld[row], half, factor_Rd[r])
        inverse_R[r] = _inverse(square)


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
    weight_Ld: Any, index_R: Any, grad_unit_Rd: Any, target_N: Any, first: int, grad_Nd: Any,
    half: bool, momentum_Ld: Any, half_momentum: bool, missed_R4: Any,
) -> None:  # fmt: skip
    """Add samples' gradients to those of their target rows."""
    rows, size = grad_unit_Rd.shape
    wide_d, weight_d, momentum_d = np.empty(size, F32), np.empty(size, F32), np.empty(size, F32)
    wide_bits_d, momentum_bits_d = wide_d.view(np.int32), momentum_d.view(np.int32)
    for n in range(len(target_N)):
        r = target_N[n] - first
        if not 0 <= r < rows:
            continue
        row = index_R[r] if len(index_R) else r
        square = F32(0.0)
        if len(missed_R4) > 0 and missed_R4[r, 1] != F32(0.0):
            _widen(momentum_Ld[row], half_momentum, momentum_d, momentum_bits_d)
            square = _made_up(weight_Ld[row], momentum_d, missed_R4[r], weight_d)
        else:
            for k in range(size):
                square += weight_Ld[row, k] * weight_Ld[row, k]
        inverse = _inverse(square)
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
def update_rows_sgd(
    weight_Ld: Any, momentum_Ld: Any, index_R: Any, grad_unit_Rd: Any, lr: Any, momentum: Any,
    weight_decay: Any, nesterov: bool, half_gradient: bool, half_momentum: bool, missed_R4: Any,
    class_R: Any, first_key: Any, second_key: Any,
) -> None:  # fmt: skip
    """Update rows in place in the tables, after the steps that they missed."""
    rows, size = grad_unit_Rd.shape
    grad_unit_d, velocity_d = np.empty(size, F32), np.empty(size, F32)
    grad_unit_bits_d, velocity_bits_d = grad_unit_d.view(np.int32), velocity_d.view(np.int32)
    word_d = np.zeros(size, np.uint32)
    if half_momentum:
        for k in range(size):
            word_d[k] = _noise_word(-1 - k, first_key, second_key)
    for r in range(rows):
        row = index_R[r] if len(index_R) else r
        _widen(grad_unit_Rd[r], half_gradient, grad_unit_d, grad_unit_bits_d)
        made_up = len(missed_R4) > 0 and missed_R4[r, 1] != F32(0.0)
        if made_up:
            _widen(momentum_Ld[row], half_momentum, velocity_d, velocity_bits_d)
            a, b, c, d = missed_R4[r, 0], missed_R4[r, 1], missed_R4[r, 2], missed_R4[r, 3]
            for k in range(size):
                weight = weight_Ld[row, k]
                weight_Ld[row, k] = a * weight + b * velocity_d[k]
                velocity_d[k] = c * weight + d * velocity_d[k]
        along, square = F32(0.0), F32(0.0)
        for k in range(size):
            along += grad_unit_d[k] * weight_Ld[row, k]
            square += weight_Ld[row, k] * weight_Ld[row, k]
        inverse = _inverse(square)
        along = weight_decay - along * inverse * inverse
        if not (half_momentum or nesterov or made_up):
            for k in range(size):
                weight = weight_Ld[row, k]
                velocity = momentum * momentum_Ld[row, k] + (grad_unit_d[k] + along * weight)
                momentum_Ld[row, k] = velocity
                weight_Ld[row, k] = weight - lr * velocity
            continue
        if not made_up:
            _widen(momentum_Ld[row], half_momentum, velocity_d, velocity_bits_d)
        for k in range(size):
            weight = weight_Ld[row, k]
            grad = grad_unit_d[k] + along * weight
            velocity = momentum * velocity_d[k] + grad
            velocity_d[k] = velocity
            step = grad + momentum * velocity if nesterov else velocity
            weight_Ld[row, k] = weight - lr * step
        if half_momentum:
            row_word = _noise_word(class_R[r], first_key, second_key)
            for k in range(size):
                # Stochastic rounding: 16 random bits are added to what will be cut off.
                bits = I32(0x7FC00000) if velocity_d[k] != velocity_d[k] else velocity_bits_d[k]
                noise = U32(row_word * word_d[k]) >> U32(16)
                momentum_Ld[row, k] = np.int16((bits + I32(noise)) >> I32(16))
        else:
            for k in range(size):
                momentum_Ld[row, k] = velocity_d[k]
