"""A dataset in memory, for the tests of loading."""

import time
from collections.abc import Mapping, Sequence

import numpy as np
import simplejpeg
from numpy.typing import NDArray

SIDE = 16


class MemoryDataset:
    """Encoded images, three per class: as many as asked for of one colour each, or the given ones.

    Reading an image takes `seconds`, and raises its error if `errors` has one for its index.
    """

    class_mapping: dict[int | str, int] | None = None

    def __init__(
        self,
        images: int | Sequence[bytes | memoryview] = 30,
        *,
        errors: Mapping[int, Exception] | None = None,
        seconds: float = 0.0,
    ) -> None:
        if isinstance(images, int):
            shades = np.linspace(0, 255, images).astype(np.uint8)
            images = [simplejpeg.encode_jpeg(np.full((SIDE, SIDE, 3), s, np.uint8)) for s in shades]
        self.images = list(images)
        self.labels = np.arange(len(images), dtype=np.int64) // 3
        self.num_classes = -(-len(images) // 3)
        self.errors, self.seconds = errors or {}, seconds

    def __len__(self) -> int:
        return len(self.images)

    def encoded(self, index: int) -> bytes | memoryview:
        time.sleep(self.seconds)
        if index in self.errors:
            raise self.errors[index]
        return self.images[index]

    def describe(self, index: int) -> str:
        return f"memory, image {index}"

    def classes(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        return self.labels[indices]

    def storage_order(self) -> None:
        return None
