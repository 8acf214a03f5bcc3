"""Triton kernels that hash class ids: draw classes, and put them in a keyed order. Needs Triton.

They make the words of `hashing.class_hash` in 32-bit registers, where torch takes some 24 passes of
64-bit integers through memory. Shapes: L classes of the shard.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from recognition.head.hashing import hash_keys
from recognition.head.kernels.triton_softmax import kernel

# 16 classes per thread of four warps: 16 bytes of a mask are one access. A shard of 10 million
# classes has 4,900 programs.
_CLASSES = 2048
_WARPS = 4


@kernel()
def mix(word: tl.tensor) -> tl.tensor:
    """Scramble 32-bit words, as `hashing.class_hash` does; uint32."""
    word = word ^ (word >> 16)
    word = word * 0x7FEB352D
    word = word ^ (word >> 15)
    word = word * 0x846CA68B
    return word ^ (word >> 16)


@kernel()
def class_words(number: tl.tensor, first_key: tl.tensor, second_key: tl.tensor) -> tl.tensor:
    """Return `hashing.class_hash` of numbers, of which the lower 32 bits count; uint32."""
    word = mix(number.to(tl.uint32) ^ first_key.to(tl.uint32))
    return mix(word + second_key.to(tl.uint32))


@kernel(varying=["start", "classes", "first_key", "second_key"])
def draw_classes(
    mask_L: tl.tensor, threshold: tl.tensor, start: tl.tensor, classes: tl.tensor,
    first_key: tl.tensor, second_key: tl.tensor, BLOCK: tl.constexpr,
) -> None:  # fmt: skip
    """Set the mask, uint8, at every class whose hash is below the threshold, an int64 in memory."""
    row_l = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside_l = row_l < classes
    hash_l = class_words(row_l + start, first_key, second_key).to(tl.int64)
    drawn_l = (hash_l < tl.load(threshold)).to(tl.uint8)
    held_l = tl.load(mask_L + row_l, mask=inside_l, other=0)
    tl.store(mask_L + row_l, held_l | drawn_l, mask=inside_l)


@kernel(varying=["start", "classes", "first_key", "second_key"])
def rank_classes(
    key_L: tl.tensor, score_L: tl.tensor, start: tl.tensor, classes: tl.tensor,
    first_key: tl.tensor, second_key: tl.tensor, BLOCK: tl.constexpr,
) -> None:  # fmt: skip
    """Write `by_score.ranking`: the order of the scores, then of the hashes downwards."""
    row_l = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside_l = row_l < classes
    hash_l = class_words(row_l + start, first_key, second_key)
    score_l = tl.load(score_L + row_l, mask=inside_l, other=0.0)
    bits_l = tl.where(score_l == 0.0, 0.0, score_l).to(tl.int32, bitcast=True)
    bits_l = tl.where(bits_l < 0, bits_l ^ 0x7FFFFFFF, bits_l)
    key_l = (bits_l.to(tl.int64) << 32) | (hash_l ^ 0xFFFFFFFF).to(tl.int64)
    tl.store(key_L + row_l, key_l, mask=inside_l)


def draw(mask_L: Tensor, threshold: int | Tensor, start: int, seed: int, step: int) -> None:
    """Set the mask, bool [L], in place, at every class whose hash is below `threshold`.

    Row 0 is class `start`, which with all others is below 2^32. A threshold on the mask's device,
    int64 scalar, is read there: the host does not wait.
    """
    if not isinstance(threshold, Tensor):
        threshold = torch.full((), threshold, dtype=torch.int64, device=mask_L.device)
    if len(mask_L) > 0:
        with torch.cuda.device_of(mask_L):  # type: ignore[no-untyped-call]
            draw_classes[(triton.cdiv(len(mask_L), _CLASSES),)](
                mask_L.view(torch.uint8), threshold, *_numbers(mask_L, start, seed, step),
                BLOCK=_CLASSES, num_warps=_WARPS,
            )  # fmt: skip


def ranking(score_L: Tensor, start: int, seed: int, step: int) -> Tensor:
    """See `by_score.ranking`; row 0 is class `start`."""
    key_L = torch.empty(len(score_L), dtype=torch.int64, device=score_L.device)
    if len(score_L) > 0:
        with torch.cuda.device_of(score_L):  # type: ignore[no-untyped-call]
            rank_classes[(triton.cdiv(len(score_L), _CLASSES),)](
                key_L, score_L, *_numbers(score_L, start, seed, step),
                BLOCK=_CLASSES, num_warps=_WARPS,
            )  # fmt: skip
    return key_L


def _numbers(of_L: Tensor, start: int, seed: int, step: int) -> tuple[int, int, int, int]:
    """Return the integers that both kernels take: first class, how many, and the two keys.

    Three of them as the int32 with the same lower bits: Triton would compile again for each width.
    """
    first, first_key, second_key = (
        (word & 0x7FFFFFFF) - (word & 0x80000000) for word in (start, *hash_keys(seed, step))
    )
    return first, len(of_L), first_key, second_key
