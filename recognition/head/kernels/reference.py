"""The elementwise work of the passes between their matrix products: four operations on a block.

`BlockOps` has each in torch, which is its definition and runs on any device. `CompiledOps` (`cpu`)
does the same in loops that Numba compiles for a CPU, `TritonOps` (`cuda`) in Triton kernels.

Shapes: R classes of a block, K centres per class, C = R·K centres, N samples, d embedding size.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from recognition.head.kernels.block import FIXED_MAX, Block, LogitTransform
from recognition.head.kernels.workspace import Workspace
from recognition.head.losses.base import Curriculum
from recognition.head.optim.history import Missed
from recognition.head.optim.rounding import RowNoise
from recognition.head.optim.row_optimizers import RowOptimizer, RowSGD

# Of the cosines by which a class's nearest samples are told apart, and its share is reckoned: at a
# scale of 64 a share is off by 0.4% at most. Those of a curriculum may be up to 2.
COSINE_STEP = 2.0**-13
_NO_COSINE = -(2**15)
EPSILON = 1e-12  # smallest norm that is divided by, as in torch.nn.functional.normalize


@dataclass(frozen=True)
class Coefficients:
    """What makes the samples' coefficients in a centre's gradient from the exponentials.

    With e the exponentials that `product_exps` makes, and n the centre's norm, they are
    `weight·e`, and `own / n` in the row of a sample's target class.
    """

    target: Tensor  # int64 [N], position of each sample's target class in the row set
    weight: Tensor  # float32 [N]
    own: Tensor  # float32 [N], derivative of the loss by the cosine with the target centre
    batch: Tensor  # int64 [N], which of B micro-batches each sample is from
    absent: Tensor | None = None  # bool [A, B], rows of the set that took no part in each


class BlockOps:
    """The block operations of one thread, in torch.

    Tables, products and gradients are contiguous; tensors are float32 unless stated otherwise.
    A block, and the samples, may be none.
    """

    reads_skip = False  # whether `update_rows_sgd` may be given `skip`
    makes_up = True  # whether blocks may have missed steps; see `Block.missed`

    def __init__(self) -> None:
        self.space = Workspace()  # for temporaries

    def fuses(self, transform: LogitTransform, dtype: torch.dtype) -> bool:
        """Return whether there are `product_exps` and `product_update` for products in `dtype`."""
        return False

    def row_bytes(self, samples: int, size: int, dtype: torch.dtype, *, lean: bool) -> int:
        """Return the bytes of the temporaries that a centre of a block needs.

        `lean` says that the operations here do all the work on a block, so that torch makes no
        temporaries of its own.
        """
        # Three float32 matrices of rows x samples exist at once, and as many of rows x embedding
        # size where rows are gathered: weight, velocity, gradient.
        return 12 * (samples + size)

    def product_exps(
        self, block: Block, unit_Nd: Tensor, target_N: Tensor, transform: LogitTransform,
        out_RN: Tensor, sum_GN: Tensor | None,
    ) -> Tensor:  # fmt: skip
        """Do the work of `read_rows`, of the product, and of `softmax_block`; where it `fuses`.

        Args:
            block: with one centre per row.
            unit_Nd: unit embeddings in the dtype of the products.
            target_N: int64, position of each sample's target class in the block's row set.
            transform: from cosine to logit.
            out_RN: what `softmax_block` leaves in place of the products is written here.
            sum_GN: float32, `sum_parts` of the block's rows at least; the sums of exponentials
                are added to some of these parts. None for a caller that has them already.

        Returns:
            the block's rows in the dtype of the products, [R, d], as `read_rows` does.
        """
        raise NotImplementedError(f"{type(self).__name__} does not fuse")

    def product_update(
        self, block: Block, unit_Nd: Tensor, coefficients: "Coefficients",
        transform: LogitTransform, sgd: RowSGD, lr: float, noise: RowNoise | None,
        skip: Tensor | None = None,
    ) -> None:  # fmt: skip
        """Make the block's gradient and update its rows by `sgd`; where it `fuses`.

        The gradient is `coefficient_RN @ unit_Nd` without its component along each row; see
        `Coefficients`. Other arguments are those of `product_exps` and `update_rows_sgd`.
        """
        raise NotImplementedError(f"{type(self).__name__} does not fuse")

    def sum_parts(self, block_rows: int) -> int:
        """Return G, the number of parts in which `product_exps` sums a block's exponentials."""
        return 1

    def read_rows(self, block: Block, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return the block's rows in `dtype`, [R, d], and 1 / max(norm, 1e-12) of each, [R].

        Norms are float32, of the rows before they are rounded to `dtype`. The rows may be the
        table itself, to be read only; they hold until rows are read again.
        """
        row_Rd = block.read("weight")
        inverse_R = inverse_norm(row_Rd)
        if dtype == row_Rd.dtype:
            return row_Rd, inverse_R
        return self.space.like("factor", row_Rd, dtype).copy_(row_Rd), inverse_R

    def add_product(self, total_Nd: Tensor, exp_NC: Tensor, centre_Cd: Tensor) -> None:
        """Add a product of float32 or bfloat16 factors to a float32 matrix, in place."""
        if exp_NC.dtype == total_Nd.dtype:
            total_Nd.addmm_(exp_NC, centre_Cd)
        elif total_Nd.device.type == "cuda":
            # One launch, and the sum is rounded to nothing shorter than float32 on the way.
            torch.addmm(total_Nd, exp_NC, centre_Cd, out_dtype=total_Nd.dtype, out=total_Nd)
        else:
            total_Nd.add_(exp_NC @ centre_Cd)

    def softmax_block(
        self, product_CN: Tensor, inverse_C: Tensor, target_N: Tensor, first: int,
        transform: LogitTransform, running_max_N: Tensor, sum_exp_N: Tensor | None,
    ) -> Tensor | None:  # fmt: skip
        """Add a block to each sample's online softmax; turn its products into exponentials.

        All in place. With p the old running maximum and q the new one, the largest logit so far or
        the fixed maximum, `sum_exp_N` becomes `sum_exp · 2^(p − q) + Σ_R 2^(logit − q)` and
        `product_CN` becomes `2^(logit − q) · inverse_C`: what to multiply the block's centres, not
        normalised, with for the gradient by the unit embeddings, up to a factor per sample. With
        several centres per class, those that are not the nearest get 0; with a curriculum, the
        derivative of the changed cosine is a factor more.

        Args:
            product_CN: float32 or bfloat16, centres times unit embeddings.
            inverse_C: inverse norms of the centres.
            target_N: int64, each sample's target class; row 0 of the block is class `first`.
            first: where the block begins.
            transform: from cosine to logit.
            running_max_N: at first `transform.initial_max`.
            sum_exp_N: sum of exponentials at that maximum; None for a caller that has it already.

        Returns:
            `2^(p − q)`, [N], the factor for sums over earlier blocks; None if it is 1.
        """
        if len(product_CN) == 0:
            return None
        inverse_C1, nearest_RN, derivative_RN = inverse_C.unsqueeze(1), None, None
        if transform.is_plain:
            logit_RN = product_CN
            if product_CN.dtype != torch.float32:
                logit_RN = self.space.like("logit", product_CN, torch.float32)
            torch.mul(product_CN, inverse_C1 * transform.log2_scale, out=logit_RN)
            if transform.inter_class_filter is not None:
                limit = transform.inter_class_filter * transform.log2_scale
                logit_RN.masked_fill_(logit_RN > limit, -math.inf)
        else:
            cosine_RN, nearest_RN = _class_cosines(product_CN * inverse_C1, transform.centres)
            if transform.inter_class_filter is not None:
                cosine_RN.masked_fill_(cosine_RN > transform.inter_class_filter, -math.inf)
            if transform.curriculum is not None:
                cosine_RN, derivative_RN = _harden(cosine_RN, transform.curriculum)
            logit_RN = cosine_RN.mul_(transform.log2_scale)
        _mask_targets(logit_RN, target_N - first)
        factor, rescale_N = _accumulate(logit_RN, transform, running_max_N, sum_exp_N)
        exp_RN = logit_RN if derivative_RN is None else logit_RN.mul_(derivative_RN)
        exp_CN = _spread(exp_RN, nearest_RN, transform.centres).mul_(inverse_C1 * factor)
        if exp_CN is not product_CN:
            product_CN.copy_(exp_CN)
        return rescale_N

    def score_block(
        self, product_CN: Tensor, inverse_C: Tensor, target_N: Tensor, first: int,
        transform: LogitTransform, running_max_N: Tensor, sum_exp_N: Tensor, key_2R: Tensor,
    ) -> None:  # fmt: skip
        """Add a block to each sample's online softmax; find each class's two largest logits.

        Whose negative a class is with one of them, and the logit, are written as a key, see
        `score_keys`, the larger first. With a curriculum logits are those of the exponentials in
        the gradient. Other arguments are those of `softmax_block`; products are overwritten.
        """
        given = target_N, first, transform, running_max_N, sum_exp_N
        self.softmax_block(product_CN, inverse_C, *given)
        exp_CN = product_CN.float() / inverse_C.unsqueeze(1)
        exp_RN = exp_CN.view(-1, transform.centres, exp_CN.shape[1]).amax(1)
        cosine_RN = exp_RN.log2_().add_(running_max_N).div_(transform.log2_scale)
        keys_RN = score_keys(cosine_RN, key_2R.dtype)
        found = min(2, keys_RN.shape[1])
        key_2R[:found] = keys_RN.topk(found, 1).values.T
        key_2R[found:] = torch.iinfo(key_2R.dtype).min

    def add_targets(
        self, block: Block, grad_unit_Rd: Tensor, target_N: Tensor, grad_Nd: Tensor
    ) -> None:
        """Add `grad_Nd / max(norm of the row, 1e-12)` to the target rows' gradients, in place.

        Args:
            block: with one centre per row.
            grad_unit_Rd: float32 or bfloat16, gradients of its rows.
            target_N: int64, positions in the block's row set, none of them twice.
            grad_Nd: what to add.
        """
        rows = len(block)
        if rows == 0:
            return
        target_N = target_N - block.start
        inside_N = (target_N >= 0) & (target_N < rows)
        target_N = target_N.clamp(0, rows - 1)
        inverse_N = inverse_norm(block.read("weight").index_select(0, target_N))
        # Those of other blocks add zeros, so that nothing is selected and no GPU waited for.
        added_Nd = torch.where(inside_N.unsqueeze(1), grad_Nd * inverse_N.unsqueeze(1), 0.0)
        grad_unit_Rd.index_put_((target_N,), added_Nd.to(grad_unit_Rd.dtype), accumulate=True)

    def update_rows_sgd(
        self, block: Block, grad_unit_Rd: Tensor, sgd: RowSGD, lr: float, noise: RowNoise | None,
        skip: Tensor | None = None,
    ) -> None:  # fmt: skip
        """Update the block's rows by `sgd`, which has a momentum above 0, in place.

        No other row is touched. Call `block.write(noise)` afterwards.

        Args:
            block: with one centre per row, weight and `momentum`.
            grad_unit_Rd: float32 or bfloat16, from which `full_gradient` makes the gradient; may be
                overwritten.
            sgd: the optimizer.
            lr: learning rate.
            noise: that of `Block.noise`.
            skip: bool scalar on the device, whether to change nothing; where `reads_skip`.
        """
        assert skip is None, "only a kernel decides without the host"
        gradient_RD = full_gradient(block, grad_unit_Rd)
        sgd.update(block.read("weight"), block.read_state(), gradient_RD, lr)

    def coast(
        self, block: Block, optimizer: RowOptimizer, missed: Missed, noise: RowNoise | None
    ) -> None:
        """Make the steps that the block's rows have missed, in place; `noise` is `Block.noise`'s.

        No other row is touched. See `RowOptimizer.coast`.
        """
        optimizer.coast(block.read("weight"), block.read_state(), missed)
        block.write(noise)


def key_dtype(samples: int) -> torch.dtype:
    """Return the dtype of keys that can tell so many samples apart."""
    return torch.int32 if samples <= 1 << 16 else torch.int64


def score_keys(cosine_RN: Tensor, dtype: torch.dtype) -> Tensor:
    """Return one integer for each cosine and its sample, in the order of the cosines: [R, N].

    Its upper 16 bits are the cosine in steps of `COSINE_STEP`, the lowest for −inf and NaN, so
    that of all pairs of a class the largest key names the nearest sample; see `read_keys`. The
    cosine is overwritten.
    """
    steps_RN = cosine_RN.div_(COSINE_STEP).nan_to_num_(nan=-math.inf).round_()
    steps_RN = steps_RN.clamp_(_NO_COSINE, -_NO_COSINE - 1).to(dtype)
    sample_N = torch.arange(cosine_RN.shape[1], dtype=dtype, device=cosine_RN.device)
    return (steps_RN << _sample_bits(dtype)) | sample_N


def read_keys(keys: Tensor) -> tuple[Tensor, Tensor]:
    """Return the cosines, float32, −inf where there is none, and the samples of keys."""
    bits = _sample_bits(keys.dtype)
    cosine, sample = (keys >> bits).float().mul_(COSINE_STEP), keys & ((1 << bits) - 1)
    return cosine.masked_fill_(cosine == _NO_COSINE * COSINE_STEP, -math.inf), sample


def _sample_bits(dtype: torch.dtype) -> int:
    return 8 * dtype.itemsize - 16


def full_gradient(block: Block, grad_unit_Cd: Tensor) -> Tensor:
    """Return the gradient of a block's centres, float32 [R, K·d].

    It lacks the component along each centre that `grad_unit_Cd`, float32 or bfloat16, still has.
    Call it once, and use the result before the next block: it is made in place.
    """
    weight_RD, gradient_Cd = block.read("weight"), grad_unit_Cd
    if gradient_Cd.dtype != torch.float32:
        gradient_Cd = block.space.like("gradient", grad_unit_Cd, torch.float32).copy_(grad_unit_Cd)
    return tangential(gradient_Cd, weight_RD.view(grad_unit_Cd.shape)).view(weight_RD.shape)


def inverse_norm(row_Rd: Tensor) -> Tensor:
    """Equals `1 / row_Rd.norm(dim=1).clamp_min(1e-12)`: float32 [R]."""
    norm_R: Tensor = torch.linalg.vector_norm(row_Rd, dim=1)
    return norm_R.clamp_min_(EPSILON).reciprocal_()


def tangential(gradient_Rd: Tensor, row_Rd: Tensor) -> Tensor:
    """Subtract each gradient's component along its row, in place; both float32.

    A cosine does not change with the norm, so its gradient has no such component.
    """
    along_R = (gradient_Rd * row_Rd).sum(1).mul_(inverse_norm(row_Rd).square_())
    return gradient_Rd.addcmul_(row_Rd, along_R.unsqueeze(1), value=-1.0)


def _class_cosines(cosine_CN: Tensor, centres: int) -> tuple[Tensor, Tensor | None]:
    """Return each class's cosine, [R, N], and which of its centres has it; None if it has one."""
    if centres == 1:
        return cosine_CN, None
    largest = cosine_CN.view(len(cosine_CN) // centres, centres, cosine_CN.shape[1]).max(1)
    return largest.values, largest.indices


def _spread(value_RN: Tensor, nearest_RN: Tensor | None, centres: int) -> Tensor:
    """Give each class's value to its nearest centre and zeros to the others: [C, N]."""
    if nearest_RN is None:
        return value_RN
    spread_RKN = value_RN.new_zeros(value_RN.shape[0], centres, value_RN.shape[1])
    spread_RKN.scatter_(1, nearest_RN.unsqueeze(1), value_RN.unsqueeze(1))
    return spread_RKN.flatten(0, 1)


def _harden(cosine_RN: Tensor, curriculum: Curriculum) -> tuple[Tensor, Tensor]:
    """Turn hard negatives' cosines c into `c·(t + c)`, in place; return them and the derivative."""
    hard_RN = cosine_RN > curriculum.bound
    derivative_RN = torch.where(hard_RN, curriculum.boost + 2.0 * cosine_RN, 1.0)
    changed_RN = torch.where(hard_RN, cosine_RN * (curriculum.boost + cosine_RN), cosine_RN)
    return cosine_RN.copy_(changed_RN), derivative_RN


def _mask_targets(logit_RN: Tensor, target_N: Tensor) -> None:
    """Set `logit_RN[target_N[n], n] = −inf` for the samples whose target is in the block.

    Without selecting those samples, which on a GPU would make the host wait: the others write
    back what is there already. No two samples share a column, so no two writes collide.
    """
    inside_N = (target_N >= 0) & (target_N < len(logit_RN))
    target_N = target_N.clamp(0, len(logit_RN) - 1)
    column_N = torch.arange(logit_RN.shape[1], device=logit_RN.device)
    value_N = torch.where(inside_N, -math.inf, logit_RN[target_N, column_N])
    logit_RN.index_put_((target_N, column_N), value_N)


def _accumulate(
    logit_RN: Tensor, transform: LogitTransform, running_max_N: Tensor, sum_exp_N: Tensor | None
) -> tuple[float, Tensor | None]:
    """Add logits to base 2 to each sample's online softmax; all three tensors change in place.

    Logits become exponentials. Returns a factor that makes them `2^(logit − new maximum)`, and
    the factor for sums at the old maximum, [N], None where the maximum is fixed.
    """
    if transform.max_is_fixed:
        logit_RN.exp2_()
        factor, rescale_N = 2.0**-FIXED_MAX, None
    else:
        new_max_N = torch.maximum(running_max_N, logit_RN.amax(0))
        factor, rescale_N = 1.0, torch.exp2(running_max_N.sub_(new_max_N))
        running_max_N.copy_(new_max_N)
        logit_RN.sub_(running_max_N).exp2_()
        if sum_exp_N is not None:
            sum_exp_N.mul_(rescale_N)
    if sum_exp_N is not None:
        sum_exp_N.add_(logit_RN.sum(0), alpha=factor)
    return factor, rescale_N
