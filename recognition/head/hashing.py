"""The one source of random decisions in the head: a hash of (seed, step, class id).

There is no generator's state, so a resumed run, or one on another number of ranks, draws the same.
"""

import hashlib

from torch import Tensor

WORD = 0xFFFFFFFF  # the largest 32-bit word


def class_hash(class_id: Tensor, seed: int, step: int) -> Tensor:
    """Return 32 uniform bits for each class in a step: int64 of `class_id`'s shape, `[0, 2^32)`.

    Two rounds of an invertible 32-bit mix (Wellons' "lowbias32") keyed by a SHA-256 of
    (seed, step). Plain int64 arithmetic without overflow: equal on every device.
    """
    first, second = hash_keys(seed, step)
    word = _mix(class_id & WORD ^ first)
    return _mix(word.add_(second).bitwise_and_(WORD))


def hash_keys(seed: int, step: int) -> tuple[int, int]:
    """Return the two 32-bit keys of `class_hash`, each in `[0, 2^32)`."""
    key = text_hash(f"active classes, seed {seed}, step {step}")
    return key >> 32, key & WORD


def text_hash(text: str) -> int:
    """Return the first 64 bits of a text's SHA-256: a seed of its own for each purpose."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def _mix(word: Tensor) -> Tensor:
    """Scramble 32-bit words held in int64, in place; a bijection of `[0, 2^32)`."""
    word.bitwise_xor_(word >> 16)
    word.mul_(0x7FEB352D).bitwise_and_(WORD)
    word.bitwise_xor_(word >> 15)
    # The published factor 0x846CA68B minus 2^32: the same modulo 2^32, and the product stays
    # within int64.
    word.mul_(0x846CA68B - (1 << 32)).bitwise_and_(WORD)
    return word.bitwise_xor_(word >> 16)
