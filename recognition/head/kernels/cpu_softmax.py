"""Loops over a block's products that Numba compiles for this CPU. Needs Numba.

Those over the rows are in `cpu_rows`.

Shapes: R rows of a block, N samples.
"""

from math import factorial, log
from typing import Any

import numpy as np

from recognition.head.kernels.block import FIXED_MAX
from recognition.head.kernels.cpu_rows import (
    F32,
    I32,
    buffer,
    compiled,
    inlined,
    narrow,
    widen,
)
from recognition.head.kernels.reference import COSINE_STEP

# Rows that are summed in float32 before the sums are added up in float64: sums of a whole block
# in float32 would lose three digits.
_RUN = 64
_MAX_POWER = F32(2.0**-FIXED_MAX)
_COSINE_STEP, _LOWEST = F32(COSINE_STEP), I32(-(2**31))
# 2^z by its Taylor series: for |z| <= 1/2 eight terms leave 5e-9, a tenth of float32's last bit.
_T1, _T2, _T3, _T4, _T5, _T6, _T7 = (F32(log(2.0) ** k / factorial(k)) for k in range(1, 8))


@inlined
def _exponent(logit: Any) -> Any:
    """Return the integer nearest to a logit, within the range of a float32's exponent."""
    low = F32(-126.0) if logit < F32(-126.0) else logit
    near = np.floor(low + F32(0.5))  # math.floor gives 64 bits, twice the time
    return near if near < F32(127.0) else F32(127.0)  # NaN gives a number; the rest stays NaN


@inlined
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


@compiled
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


@inlined
def _split(wide_N: Any, to_logit: Any, limit: Any, rest_N: Any, power_bits_N: Any) -> None:
    """Turn a row's products into logits, and `2^logit` into a power of two and the rest.

    One above the limit becomes −inf.
    """
    for n in range(len(wide_N)):
        logit = wide_N[n] * to_logit
        exponent = _exponent(logit)
        rest = _power_of_rest(logit, exponent)
        rest_N[n] = F32(0.0) if logit > limit else rest
        wide_N[n] = F32(-np.inf) if logit > limit else logit
        power_bits_N[n] = (I32(exponent) + I32(127)) << I32(23)


@inlined
def _add_up(sum_N: Any, total_N: Any) -> None:
    """Add float32 sums to those in float64, at the fixed maximum, and begin them anew."""
    for n in range(len(sum_N)):
        total_N[n] += np.float64(sum_N[n]) * np.float64(_MAX_POWER)
        sum_N[n] = F32(0.0)


@compiled
def softmax_block(
    exp_RN: Any, inverse_R: Any, target_N: Any, first: int, log2_scale: Any, limit: Any,
    sum_exp_N: Any, half: bool,
) -> None:  # fmt: skip
    """Turn products into exponentials at the fixed maximum, and add to their sums there."""
    rows, samples = exp_RN.shape
    total_N = sum_exp_N.astype(np.float64)
    first_R, next_N = _chains(target_N, first, rows)
    wide_N, wide_bits_N = buffer(samples)
    rest_N, power_N, sum_N = np.empty(samples, F32), np.empty(samples, F32), np.zeros(samples, F32)
    power_bits_N = power_N.view(np.int32)
    for r in range(rows):
        widen(exp_RN[r], half, wide_N, wide_bits_N)
        _split(wide_N, inverse_R[r] * log2_scale, limit, rest_N, power_bits_N)
        n = first_R[r]
        while n >= 0:
            rest_N[n] = F32(0.0)
            n = next_N[n]
        to_exp = inverse_R[r] * _MAX_POWER
        for n in range(samples):
            power = power_N[n] * rest_N[n]
            sum_N[n] += power
            wide_N[n] = power * to_exp
        narrow(wide_N, wide_bits_N, half, exp_RN[r])
        if (r + 1) % _RUN == 0 or r + 1 == rows:
            _add_up(sum_N, total_N)
    for n in range(samples):
        sum_exp_N[n] = total_N[n]


@compiled
def score_block(
    product_RN: Any, inverse_R: Any, target_N: Any, first: int, log2_scale: Any, limit: Any,
    sum_exp_N: Any, half: bool, first_key_R: Any, second_key_R: Any,
) -> None:  # fmt: skip
    """Add exponentials to their sums, as `softmax_block` does, and find each row's largest keys.

    See `reference.score_keys`. No exponential is kept.
    """
    rows, samples = product_RN.shape
    total_N = sum_exp_N.astype(np.float64)
    first_R, next_N = _chains(target_N, first, rows)
    wide_N, wide_bits_N = buffer(samples)
    rest_N, power_N, sum_N = np.empty(samples, F32), np.empty(samples, F32), np.zeros(samples, F32)
    power_bits_N, key_N = power_N.view(np.int32), np.empty(samples, np.int32)
    to_steps = F32(1.0) / (log2_scale * _COSINE_STEP)
    for r in range(rows):
        widen(product_RN[r], half, wide_N, wide_bits_N)
        _split(wide_N, inverse_R[r] * log2_scale, limit, rest_N, power_bits_N)
        n = first_R[r]
        while n >= 0:
            rest_N[n], wide_N[n] = F32(0.0), F32(-np.inf)
            n = next_N[n]
        largest = second = _LOWEST
        for n in range(samples):
            sum_N[n] += power_N[n] * rest_N[n]
            # Rounded above 0, where cutting off does it; the highest bit makes them signed again.
            steps = wide_N[n] * to_steps + F32(32768.5)
            steps = steps if steps > F32(0.0) else F32(0.0)  # of −inf, and NaN
            key = I32(I32(I32(steps) << I32(16)) | I32(n)) ^ _LOWEST
            key_N[n] = key
            largest = key if key > largest else largest
        for n in range(samples):
            key = key_N[n] if key_N[n] < largest else _LOWEST
            second = key if key > second else second
        first_key_R[r], second_key_R[r] = largest, second
        if (r + 1) % _RUN == 0 or r + 1 == rows:
            _add_up(sum_N, total_N)
    for n in range(samples):
        sum_exp_N[n] = total_N[n]
