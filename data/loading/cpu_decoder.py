"""What decodes a rank's batches: the interface, and the decoder on the CPU.

The loader decides which samples a batch holds; a decoder reads and decodes them, and reports what
it put in the place of bad ones.

Shape legend: b samples of a batch, S image side.
"""

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data.datasets.dataset import FaceDataset
from data.loading.bad_records import BadRecord, Indices, decode_replacing
from data.loading.decode import decode_batch
from data.loading.tuning import Timings, measure_time


@dataclass(frozen=True, eq=False)
class Decoded:
    """The pixels of a batch."""

    images: Tensor  # uint8 [b, 3, S, S], RGB, channels_last in memory
    indices: Indices  # [b], of the images in the dataset
    bad: tuple[BadRecord, ...]  # the records that were replaced by other samples
    timings: Timings  # of reading and decoding


class BatchDecoder(Protocol):
    """Reads and decodes samples of a dataset; safe to use from several threads."""

    @property
    def hint(self) -> str:
        """What to change when decoding itself is too slow."""

    def decode(self, indices: Indices, epochs: Indices) -> Decoded:
        """Return the samples at `indices`, int64 [b], of `epochs`, int64 [b].

        For a bad record raises what the dataset raises if it cannot be read, and `BadImage` if it
        cannot be decoded; or, with a `replacement_seed`, puts another sample in its place.
        """

    def close(self) -> None:
        """Release what decoding holds, except memory of batches; decoding can start again."""


MakeDecoder = Callable[..., BatchDecoder]
"""Makes the decoder of one rank from the arguments of `CpuDecoder`."""


class ImageBuffers:
    """Provides memory for batches, and uses it again once nobody refers to it.

    Fresh memory of a few megabytes comes from the system page by page, each cleared first, and
    goes back when the batch is gone: a tenth of the time that decoding takes. Page-locked memory
    is left to torch's own cache, which knows until when a copy to the GPU still reads it.

    Safe to use from several threads.
    """

    def __init__(self, *, pin_memory: bool) -> None:
        self.pin_memory = pin_memory
        self._free: list[NDArray[np.uint8]] = []  # flat; a list's append and pop are atomic

    def take(self, count: int, image_size: int) -> Tensor:
        """Return uninitialised memory, uint8 [count, S, S, 3], S = `image_size`."""
        shape = (count, image_size, image_size, 3)
        if self.pin_memory:
            return torch.empty(shape, dtype=torch.uint8, pin_memory=True)
        size = count * image_size * image_size * 3
        try:
            memory = self._free.pop()
        except IndexError:
            memory = np.empty(size, np.uint8)
        if len(memory) < size:
            memory = np.empty(size, np.uint8)
        images = memory[:size].reshape(shape)
        # The tensor and all its views keep this array alive, and nothing else does.
        weakref.finalize(images, self._free.append, memory).atexit = False
        return torch.from_numpy(images)


class CpuDecoder:
    """Decodes with libjpeg-turbo and Pillow in the calling thread: see `data.loading.decode`.

    With `replacement_seed`, another sample takes the place of a record that cannot be read or
    decoded; with None, such a record is an error.
    """

    def __init__(
        self,
        dataset: FaceDataset,
        *,
        image_size: int,  # images of other sizes are resized
        pin_memory: bool = False,  # deliver page-locked memory (needs CUDA)
        replacement_seed: int | None = None,
    ) -> None:
        self._dataset = dataset
        self._image_size = image_size
        self._seed = replacement_seed
        self._buffers = ImageBuffers(pin_memory=pin_memory)

    @property
    def hint(self) -> str:
        """See `BatchDecoder`."""
        if self._buffers.pin_memory:  # for a GPU
            return "set data.decoder: dali, which decodes mostly on the GPU"
        return "start fewer ranks on this machine, or use one with more cores"

    def decode(self, indices: Indices, epochs: Indices) -> Decoded:
        """See `BatchDecoder`."""
        bad: tuple[BadRecord, ...] = ()
        with measure_time(len(indices)) as timings:
            images = self._buffers.take(len(indices), self._image_size)
            if self._seed is None:
                decode_batch(self._dataset, indices, self._image_size, images.numpy())
            else:
                indices, bad = decode_replacing(
                    self._dataset, indices, epochs, images.numpy(), seed=self._seed
                )
        return Decoded(images.permute(0, 3, 1, 2), indices, bad, timings)

    def close(self) -> None:
        """See `BatchDecoder`: there is nothing to release."""
