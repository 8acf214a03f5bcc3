"""Rectangles around faces: overlap, and the removal of those that mean the same face.

Boxes are [n, 4] of left, top, right, bottom in pixels, from the corner of the top left pixel.
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


def keep_best(
    boxes: Floats, scores: Floats, most: float, over: Literal["union", "smaller"] = "union"
) -> NDArray[np.intp]:
    """Return the indices of the boxes to keep, best score first (non-maximum suppression).

    A box goes if its intersection with a better one is more than `most` of their union, or of the
    smaller of the two. Of equal scores the earlier box is the better.
    """
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    left = np.argsort(-scores, kind="stable")
    kept = []
    while len(left):
        best, left = left[0], left[1:]
        kept.append(best)
        corner = np.maximum(boxes[best, :2], boxes[left, :2])
        sides = (np.minimum(boxes[best, 2:], boxes[left, 2:]) - corner).clip(min=0)
        common = sides[:, 0] * sides[:, 1]
        whole = (
            areas[best] + areas[left] - common
            if over == "union"
            else np.minimum(areas[best], areas[left])
        )
        left = left[common <= most * whole]
    return np.array(kept, np.intp)
