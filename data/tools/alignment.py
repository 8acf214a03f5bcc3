"""Faces from photos to the standard template, by their five landmarks.

Points are x, y in pixels from the centre of the top left pixel, as detectors give them: the left
eye (on the left of the picture), the right eye, the tip of the nose, the left and the right corner
of the mouth.
"""

import cmath
import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Points = NDArray[np.float64]  # [5, 2]

TEMPLATE_SIZE: Final = 112
TEMPLATE: Final[Points] = np.array(
    [
        [38.2946, 51.6963],
        [73.5318, 51.5014],
        [56.0252, 71.7366],
        [41.5493, 92.3655],
        [70.7299, 92.2041],
    ]
)
"""Where the landmarks lie in the 112x112 images of the public face datasets (ArcFace)."""

_LEAST_SPREAD: Final = 1.0  # pixels; below, points give no direction
_HALF: Final = 0.5 + 0.5j  # from a pixel's corner to its centre
_SAMPLES_AT_MOST: Final = 8  # a side and pixel, from the photo itself


class AlignmentError(ValueError):
    """Landmarks or an image that no face can be cut out of; says what was found."""


@dataclass(frozen=True)
class Similarity:
    """A similarity transform: `target = factor * point + shift`, points as complex x + iy.

    Attributes:
        factor: its size is the scale, its angle the rotation.
        shift: in pixels of the target.
        error: root of the mean squared distance from the targets, in their pixels.
        mirrored: whether a mirror image of the points would come closer to the targets.
    """

    factor: complex
    shift: complex
    error: float
    mirrored: bool

    @property
    def scale(self) -> float:
        """Pixels of the target for each of the source."""
        return abs(self.factor)

    @property
    def degrees(self) -> float:
        """How far the points are turned, clockwise as a picture is seen, -180 to 180."""
        return -math.degrees(cmath.phase(self.factor))

    def matrix(self) -> Points:
        """Return the transform as a matrix for (x, y, 1), float64 [2, 3]."""
        a, b = self.factor.real, self.factor.imag
        return np.array([[a, -b, self.shift.real], [b, a, self.shift.imag]])


def fit_similarity(points: Points, targets: Points) -> Similarity:
    """Return the similarity that brings `points` to `targets`, both [n, 2], by least squares.

    In the plane the solution of Umeyama (1991, "Least-squares estimation of transformation
    parameters between two point patterns") is a quotient of complex numbers. Raises
    `AlignmentError` for points that are not finite, or all at one place.
    """
    if not np.isfinite(points).all():
        raise AlignmentError(f"landmarks {points.tolist()}: expected finite numbers")
    source, target = (points @ (1, 1j)).astype(complex), (targets @ (1, 1j)).astype(complex)
    source_mean, target_mean = complex(source.mean()), complex(target.mean())
    source, target = source - source_mean, target - target_mean
    spread = math.sqrt(np.vdot(source, source).real / len(points))
    if spread < _LEAST_SPREAD:
        raise AlignmentError(
            f"landmarks {points.tolist()} lie within {spread:.2g} pixels of their middle: "
            "expected pixels of the photo, not parts of its sides"
        )
    square = np.vdot(source, source).real
    factor = complex(np.vdot(source, target) / square)
    mirror_factor = complex(np.vdot(source.conj(), target) / square)
    error = math.sqrt(np.mean(np.abs(factor * source - target) ** 2))
    # Of the two fits the one with the larger factor leaves less over.
    mirrored = abs(mirror_factor) > abs(factor)
    if abs(factor) * spread < 1e-6:
        raise AlignmentError(f"landmarks {points.tolist()} have nothing in common with a face")
    return Similarity(factor, target_mean - factor * source_mean, error, mirrored)


def warp(image: Image.Image, transform: Similarity, size: int) -> Image.Image:
    """Return the square of `size` pixels a side that `transform` makes of an image.

    What lies outside the image is black. Where the photo is larger than the target, each pixel is
    the mean of several samples (bicubic) of the square that it covers, at most one pixel of the
    photo apart, so that fine patterns do not turn into coarse ones.
    """
    step = 1 / transform.scale  # pixels of the photo for each of the target
    inverse, origin = 1 / transform.factor, -transform.shift / transform.factor
    # To Pillow a position counts from the corner of the first pixel, not from its centre.
    corner = origin - _HALF * inverse + _HALF
    if step > _SAMPLES_AT_MOST:
        reduction = math.ceil(step / _SAMPLES_AT_MOST)
        image = image.reduce(reduction)
        step, inverse, corner = step / reduction, inverse / reduction, corner / reduction
    samples = max(1, math.ceil(step - 1e-9))
    inverse /= samples
    a, b = inverse.real, inverse.imag
    large = image.transform(
        (size * samples, size * samples),
        Image.Transform.AFFINE,
        (a, -b, corner.real, b, a, corner.imag),
        Image.Resampling.BICUBIC,
    )
    return large.reduce(samples) if samples > 1 else large
