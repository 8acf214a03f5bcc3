"""The images of one identity: its centre, how far each is from it, and whether it is two people.

Shape legend: k images of the identity, d embedding size.
"""

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]

ROUNDS: Final = 3  # of leaving out images that are far from the centre, and of 2-means
TINY: Final = 1e-12


def centre_of(unit_kd: Floats, kept_k: Bools | None = None) -> Floats:
    """Return the normalised mean of the embeddings, or of the kept ones, float32 [d]."""
    total = (unit_kd if kept_k is None else unit_kd[kept_k]).sum(axis=0)
    centre: Floats = total / max(float(np.linalg.norm(total)), TINY)
    return centre


def own_cosines(unit_kd: Floats, kept_k: Bools) -> Floats:
    """Return each image's cosine with the centre of the kept others, float32 [k]; NaN without any.

    Leaving the image itself out matters: of three images it is a third of the centre.
    """
    total = unit_kd[kept_k].sum(axis=0)
    along = unit_kd @ total
    inside = kept_k.astype(np.float32)
    # |S - x|² and (S - x)·x, without a centre for each image.
    squares = np.maximum(float(total @ total) - 2 * inside * along + inside, 0.0)
    others = kept_k.sum() - inside
    with np.errstate(invalid="ignore", divide="ignore"):
        cosines = (along - inside) / np.sqrt(np.maximum(squares, TINY))
    return np.where(others > 0, cosines, np.nan).astype(np.float32)


def robust_cosines(unit_kd: Floats, least: float) -> tuple[Floats, Bools]:
    """Return each image's cosine with the centre of the kept others, and which are kept, [k] both.

    Kept are those with a cosine of at least `least`, judged again from round to round. Where that
    would leave fewer than half, there is no centre to trust, and all are kept.
    """
    kept = np.ones(len(unit_kd), np.bool_)
    cosines = own_cosines(unit_kd, kept)
    for _ in range(ROUNDS):
        new = ~(cosines < least)
        if 2 * new.sum() < len(new):
            # The median image is nearer to the majority than the mean of all.
            return own_cosines(unit_kd, np.ones_like(kept)), np.ones_like(kept)
        if (new == kept).all():
            break
        kept = new
        cosines = own_cosines(unit_kd, kept)
    return cosines, kept


def robust_centre(unit_kd: Floats, least: float) -> Floats:
    """Return the centre of the images that `robust_cosines` keeps, float32 [d]."""
    return centre_of(unit_kd, robust_cosines(unit_kd, least)[1])


class Halves(NamedTuple):
    """The best division of an identity's images into two."""

    second: Bools  # [k], which are in the second half
    between: float  # cosine of the two centres
    within: float  # the lower one of the halves' mean cosine with the centre of their others


def halves(unit_kd: Floats) -> Halves:
    """Divide the images by spherical 2-means (Dhillon and Modha, 2001).

    It begins with the image farthest from the centre and the one farthest from that. A half of a
    single image has no cosine of its own: `within` is then -1.
    """
    far = int(np.argmin(unit_kd @ centre_of(unit_kd)))
    opposite = int(np.argmin(unit_kd @ unit_kd[far]))
    centres = unit_kd[[opposite, far]]
    second = np.zeros(len(unit_kd), np.bool_)
    for _ in range(4 * ROUNDS):
        cosines = unit_kd @ centres.T
        new = cosines[:, 1] > cosines[:, 0]
        if (new == second).all() or new.all() or not new.any():
            break
        second = new
        centres = np.stack([centre_of(unit_kd, ~second), centre_of(unit_kd, second)])
    sizes = min(int(second.sum()), int((~second).sum()))
    within = -1.0
    if sizes >= 2:
        within = min(float(np.nanmean(own_cosines(unit_kd[s], np.ones(int(s.sum()), np.bool_))))
                     for s in (second, ~second))  # fmt: skip
    between = float(centres[0] @ centres[1]) if sizes else 1.0
    return Halves(second, between, within)
