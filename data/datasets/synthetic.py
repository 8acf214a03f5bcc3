"""Any number of made-up identities without a file: labels and images by formula.

For heads of a size that no dataset here has: what a step costs, what fits into memory, whether the
loss falls. The images are smooth coloured patterns, one for each identity, seen from a little
elsewhere in another light each time; they are not faces. The demo's renderer, which draws faces,
takes 11 ms of a core for the first image of a person, and a batch of many identities has a new
person in nearly each image. A pattern of 32 x 32 pixels takes 0.4 ms.

Shape legend: m images of a request, S image side, K frequencies.
"""

import io
import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from data.datasets.class_ids import ClassMapping
from data.order.permutation import make_keys
from data.records.format import Int32s, Int64s

# Each random decision has a number, so that its keys differ from those of the others. Never reuse
# one.
_POPULARITY, _PATTERN, _VIEW, _NOISE = range(4)
_MOST_POPULAR = 64  # identities, at most, of the smallest group
_FREQUENCIES = 6  # K: 3 x 6 x 6 numbers tell ten million patterns apart
_CHUNK = 1 << 20  # labels made at a time
_FLOAT = np.float32


class SyntheticImages:
    """`images` images of `identities` identities: a `FaceDataset` of which nothing is stored.

    Everything is a pure function of (seed, index). Image i below `identities` shows identity i, so
    that each has an image. All others are long-tailed as photographs from the web are: the
    identities are halved, the more popular half is halved again, and so on down to a group of at
    most 64; an image shows each group equally often, and each member of a group equally often. So
    of ten million identities half have a nineteenth of these images, and 38 have another. The
    popular ones are spread over all class ids, and with them over the ranks of a head.

    Raises `ValueError` for counts out of range.
    """

    class_mapping: ClassMapping | None = None

    def __init__(self, *, identities: int, images: int, image_size: int, seed: int = 0) -> None:
        if not 1 <= identities <= images:
            raise ValueError(
                f"{images} images of {identities} identities: expected at least one of each"
            )
        self.num_classes, self._images, self.image_size = identities, images, image_size
        self.seed = seed
        make_keys(seed)  # refuses a wrong seed
        bounds = [identities]
        while bounds[-1] > _MOST_POPULAR:
            bounds.append(bounds[-1] // 2)
        self._bounds = np.array([0, *reversed(bounds)], np.int64)
        # Coprime to the number of identities, so a multiple of it is each identity once; near the
        # golden section, so that the first few multiples are far apart.
        self._stride = max(1, identities * 382 // 1000)
        while math.gcd(self._stride, identities) > 1:
            self._stride += 1
        grid = (np.arange(image_size, dtype=_FLOAT) + _FLOAT(0.5)) / _FLOAT(image_size)
        self._grid = grid - _FLOAT(0.5)  # float32 [S], from -0.5 to 0.5
        order = np.arange(_FREQUENCIES, dtype=_FLOAT)
        self._frequency = order[:, None] * _FLOAT(np.pi)  # float32 [K, 1]
        self._amplitude = 1 / (1 + order[:, None] + order)  # float32 [K, K]
        self._amplitude[0, 0] = 0.3  # the mean colour, which light changes too

    def __len__(self) -> int:
        return self._images

    @property
    def labels(self) -> Int32s:
        """Class of each image, int32 [n]: made anew at each access, which few callers need."""
        chunks = (
            np.arange(start, min(start + _CHUNK, self._images))
            for start in range(0, self._images, _CHUNK)
        )
        return np.concatenate([self.classes(indices).astype(np.int32) for indices in chunks])

    def classes(self, indices: Int64s) -> Int64s:
        """Return the class of each image, int64 [m]."""
        drawn_m = make_keys(self.seed, _POPULARITY, indices)
        groups = len(self._bounds) - 1
        group_m = (drawn_m % np.uint64(groups)).astype(np.int64)
        start_m = self._bounds[group_m]
        size_m = (self._bounds[group_m + 1] - start_m).astype(np.uint64)
        rank_m = start_m + (drawn_m // np.uint64(groups) % size_m).astype(np.int64)
        shown_m = rank_m * self._stride % self.num_classes
        return np.where(indices < self.num_classes, indices, shown_m)

    def storage_order(self) -> Int64s | None:
        """See `StoredImages`: the order of the indices."""
        return None

    def describe(self, index: int) -> str:
        """Return what image `index` is, in words."""
        return f"synthetic image {index} of seed {self.seed}"

    def encoded(self, index: int) -> bytes:
        """Return image `index`, S pixels wide and high, as a BMP file."""
        file = io.BytesIO()
        Image.fromarray(self._pixels(index)).save(file, "BMP")  # nothing to compress or to lose
        return file.getvalue()

    def _pixels(self, index: int) -> NDArray[np.uint8]:
        """Return image `index` in RGB: uint8 [S, S, 3]."""
        person = int(self.classes(np.array([index]))[0])
        shape = 3, _FREQUENCIES, _FREQUENCIES
        pattern = self._uniform(_PATTERN, person, 3 * _FREQUENCIES**2).reshape(shape)
        view = self._uniform(_VIEW, index, 9)
        noise = self._uniform(_NOISE, index, self.image_size**2).reshape(self.image_size, -1)
        zoom, shifts, gain = 1 + 0.1 * view[0], 0.5 + 0.08 * view[1:3], 1 + 0.3 * view[3]
        # Cosines at the moved positions of the rows and of the columns, float32 [2, K, S].
        waves = np.cos(self._frequency * (zoom * self._grid + shifts[:, None, None]))
        light = view[4] * self._grid[:, None] + view[5] * self._grid  # falls off over the image
        colour = 25 * view[6:9, None, None]
        pixels = waves[0].T @ (pattern * self._amplitude) @ waves[1]
        pixels = 127.5 + gain * (110 * pixels + 40 * light) + colour + 12 * noise
        rgb: NDArray[np.uint8] = pixels.clip(0, 255).astype(np.uint8).transpose(1, 2, 0)
        return rgb

    def _uniform(self, purpose: int, number: int, count: int) -> NDArray[np.float32]:
        """Return float32 [count], uniform in [-1, 1), a function of all that is given."""
        keys = make_keys(self.seed, purpose, number, np.arange(count))
        return (keys >> np.uint64(40)).astype(_FLOAT) * _FLOAT(2**-23) - _FLOAT(1)
