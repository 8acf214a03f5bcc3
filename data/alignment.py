"""Crops a face to the standard template, by a similarity that fits its five landmarks.

Points are x, y in pixels from the centre of the top left pixel, as detectors give them: the left
eye (on the left of the picture), the right eye, the tip of the nose, the left and the right corner
of the mouth.

There are two crops of the same similarity. The antialiased one averages the pixels of a large face,
so that fine patterns do not alias. The published one takes one bilinear sample per pixel, as
`cv2.warpAffine` does: published figures rest on it, and for a large face it differs by several
levels per pixel. Use it for figures that are compared with published ones.
"""

import cmath
import math
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Points = NDArray[np.float64]  # [5, 2]
CropMethod = Literal["antialiased", "published"]

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
"""The landmarks in the 112x112 images of the public face datasets (ArcFace)."""

_LEAST_SPREAD: Final = 1.0  # pixels; points closer together have no direction
_MOST_PIXELS: Final = 1_000_000  # from the photo's corner; the square of more could overflow
_HALF: Final = 0.5 + 0.5j  # from a pixel's corner to its centre
_MOST_SAMPLES: Final = 8  # per side and pixel, from the photo itself


class AlignmentError(ValueError):
    """Landmarks, an image or an option that no face can be cropped with; says what was found."""


@dataclass(frozen=True)
class Similarity:
    """A similarity transform: `target = factor * point + shift`, points as complex x + iy."""

    factor: complex  # its magnitude is the scale, its angle the rotation
    shift: complex  # in pixels of the target
    error: float  # root mean square distance from the targets, in their pixels
    mirrored: bool  # whether a mirror image of the points would come closer to the targets

    @property
    def scale(self) -> float:
        """Pixels of the target per pixel of the source."""
        return abs(self.factor)

    @property
    def matrix(self) -> NDArray[np.float64]:
        """The transform as a matrix [2, 3] for points (x, y, 1)."""
        a, b = self.factor.real, self.factor.imag
        return np.array([[a, -b, self.shift.real], [b, a, self.shift.imag]])

    @property
    def degrees(self) -> float:
        """How far the points are rotated, clockwise as one sees the picture, -180 to 180."""
        return -math.degrees(cmath.phase(self.factor))


def fit_similarity(points: Points, targets: Points) -> Similarity:
    """Return the similarity that maps `points` to `targets`, both [n, 2], by least squares.

    In the plane the solution of Umeyama (1991, "Least-squares estimation of transformation
    parameters between two point patterns") is a quotient of complex numbers. Raises
    `AlignmentError` for points that are no pixels' places, or nearly all the same.
    """
    if not (np.abs(points) <= _MOST_PIXELS).all():  # nor is NaN
        raise AlignmentError(
            f"landmarks {points.tolist()}: expected pixels, up to {_MOST_PIXELS:,} from the corner"
        )
    source, target = (points @ (1, 1j)).astype(complex), (targets @ (1, 1j)).astype(complex)
    source_mean, target_mean = complex(source.mean()), complex(target.mean())
    source, target = source - source_mean, target - target_mean
    square = np.vdot(source, source).real
    spread = math.sqrt(square / len(points))
    if spread < _LEAST_SPREAD:
        raise AlignmentError(
            f"landmarks {points.tolist()} are within {spread:.2g} pixels of their mean: expected "
            "pixels of the photo, not fractions of its sides"
        )
    factor = complex(np.vdot(source, target) / square)
    mirror_factor = complex(np.vdot(source.conj(), target) / square)
    error = math.sqrt(np.mean(np.abs(factor * source - target) ** 2))
    # Of the two fits the one with the larger factor has the smaller error.
    mirrored = abs(mirror_factor) > abs(factor)
    if abs(factor) * spread < 1e-6:
        raise AlignmentError(f"landmarks {points.tolist()} have nothing in common with a face")
    return Similarity(factor, target_mean - factor * source_mean, error, mirrored)


def crop_face(
    image: Image.Image, transform: Similarity, size: int, method: CropMethod = "antialiased"
) -> Image.Image:
    """Return the square of `size` pixels per side that `transform` makes of an RGB image."""
    return (warp if method == "antialiased" else warp_published)(image, transform, size)


def warp(image: Image.Image, transform: Similarity, size: int) -> Image.Image:
    """Return the square of `size` pixels per side that `transform` makes of an image.

    What is outside the image is black. If the photo is larger than the target, each pixel is the
    mean of several samples (bicubic) of the square that it covers, at most one pixel of the photo
    apart, so that fine patterns do not alias.
    """
    step = 1 / transform.scale  # pixels of the photo per pixel of the target
    inverse, origin = 1 / transform.factor, -transform.shift / transform.factor
    # Pillow counts a position from the corner of the first pixel, not from its centre.
    corner = origin - _HALF * inverse + _HALF
    if step > _MOST_SAMPLES:
        reduction = math.ceil(step / _MOST_SAMPLES)
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


def warp_published(image: Image.Image, transform: Similarity, size: int) -> Image.Image:
    """Return the square of `size` pixels per side, of one bilinear sample per pixel.

    What is outside the image is black, also where a sample at its edge reaches out of it. This is
    `cv2.warpAffine` of OpenCV 5 with its defaults, to the rounding of a level; OpenCV 4 rounds
    positions to 1/32 of a pixel, which changes up to five levels.
    """
    from scipy.ndimage import affine_transform

    inverse, origin = 1 / transform.factor, -transform.shift / transform.factor
    a, b = inverse.real, inverse.imag
    # The part of the photo that the square covers: all of a large one would take 24 bytes a pixel.
    corners = [origin + inverse * corner for corner in (0, size, 1j * size, (1 + 1j) * size)]
    left, right = _covered([corner.real for corner in corners], image.width)
    top, bottom = _covered([corner.imag for corner in corners], image.height)
    image = image.crop((left, top, right, bottom))
    channels = [
        affine_transform(
            channel,
            np.array([[a, b], [-b, a]]),  # row and column of the sample, by those of the target
            (origin.imag - top, origin.real - left),
            (size, size),
            order=1,
            mode="grid-constant",
        )
        for channel in np.moveaxis(np.asarray(image, np.float64), 2, 0)
    ]
    return Image.fromarray(np.rint(np.stack(channels, axis=2)).astype(np.uint8))


def _covered(places: list[float], size: int) -> tuple[int, int]:
    """Return the first pixel that samples between these places take part in, and past the last."""
    first = min(max(math.floor(min(places)) - 1, 0), size - 1)
    return first, max(min(math.ceil(max(places)) + 2, size), first + 1)
