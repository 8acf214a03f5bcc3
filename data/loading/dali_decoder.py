"""Decoding by NVIDIA DALI: on a GPU, where the pixels then stay, or on the CPU for tests.

DALI gets what it decodes to the pixels of `decode`: whole JPEGs of the size that training
takes. Everything else goes to the decoder on the CPU, which alone says what is wrong with an image.
DALI itself is lenient: it fills up what is missing. So what shows signs of damage is not for it
either; damage that shows none, wrong or missing bytes between header and end, it decodes to wrong
pixels where the other decoder would have refused.

Each thread of the loader has a pipeline to itself while it decodes a batch.

Shape legend: b samples of a batch, k of them for DALI, S image side.
"""

import ctypes
import logging
import time
from collections.abc import Sequence

import numpy as np
import simplejpeg
import torch
from numpy.typing import NDArray
from nvidia.dali import Pipeline, fn, types
from torch import Tensor

from data.datasets.dataset import FaceDataset
from data.loading.bad_records import BadRecord
from data.loading.cpu_decoder import CpuDecoder, Decoded, ImageBuffers, Indices
from data.loading.decode_limits import check_jpeg
from data.loading.tuning import spending

logger = logging.getLogger(__name__)

_START, _SCAN, _END = b"\xff\xd8", b"\xff\xda", b"\xff\xd9"
_COLOURS = ("YCbCr", "RGB", "Gray")  # CMYK is converted otherwise
# A block that a disk has lost reads as zeros, which no encoder writes so many of in a row.
_HOLE = bytes(16)


class DaliDecoder:
    """Decodes with DALI what it decodes as `CpuDecoder` does, and by that one everything else.

    On the CPU the pixels are the same to the bit. On a GPU the last bits of a JPEG's may differ.

    Args:
        dataset: what to read.
        image_size: S; images of other sizes are decoded and resized on the CPU.
        pin_memory: have page-locked memory for what is decoded on the CPU (needs CUDA).
        replacement_seed: with it, another sample takes the place of a record that cannot be read
            or decoded; None: such a record is raised.
        device: where to decode, and where images are delivered.

    Raises `ValueError` where DALI does not work.
    """

    def __init__(
        self,
        dataset: FaceDataset,
        *,
        image_size: int,
        pin_memory: bool = False,
        replacement_seed: int | None = None,
        device: torch.device,
    ) -> None:
        if device.type == "cuda" and device.index is None:  # other threads have another current one
            device = torch.device("cuda", torch.cuda.current_device())
        self._dataset = dataset
        self._image_size = image_size
        self._device = device
        self._strict = CpuDecoder(
            dataset,
            image_size=image_size,
            pin_memory=pin_memory,
            replacement_seed=replacement_seed,
        )
        self._buffers = ImageBuffers(pin_memory=False)
        # So that neither this waits for training nor training for this. One for all threads: their
        # copies are short, and torch keeps memory for each stream.
        self._stream: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._free: list[_Pipeline] = []  # a list's append and pop are atomic
        self._refused = False
        self._try()

    @property
    def remedy(self) -> str:
        """See `BatchDecoder`."""
        if self._stream is None:
            return "set data.decoder: cpu, for DALI decodes on the same cores"
        return "start fewer ranks on this machine, or use one with more cores"

    def decode(self, indices: Indices, epochs: Indices) -> Decoded:
        """See `BatchDecoder`: `images` are on the device, and complete."""
        with spending(len(indices)) as spent:
            encoded = [self._read(index) for index in indices.tolist()]
            rows = [row for row, image in enumerate(encoded) if image is not None]
            with torch.cuda.stream(self._stream):  # on the CPU it does nothing
                started = time.perf_counter()
                pixels = self._decode([image for image in encoded if image is not None])
                waited = time.perf_counter() - started
                if pixels is None:
                    rows, pixels = [], self._memory(0)
                pixels, taken, bad = self._complete(pixels, rows, indices, epochs)
                if self._stream is not None:
                    self._stream.synchronize()  # another stream uses them
        # This thread slept while DALI's decoded.
        spent.decoding = min(spent.wall - spent.queued, spent.decoding + waited)
        return Decoded(pixels.permute(0, 3, 1, 2), taken, bad, spent)

    def close(self) -> None:
        """See `BatchDecoder`: ends DALI's threads, and frees what it has on the GPU."""
        self._free.clear()

    def _read(self, index: int) -> bytes | None:
        """Return the image at `index` if it is for DALI.

        It is copied: so a wait for the disk is here, where it is known for one.
        """
        try:
            encoded = bytes(self._dataset.encoded(index))
        except ValueError:  # for the other decoder to meet, and to tell
            return None
        return encoded if is_whole_jpeg(encoded, self._image_size) else None

    def _decode(self, encoded: Sequence[bytes]) -> Tensor | None:
        """Return the pixels, uint8 [k, S, S, 3], or None where DALI refuses one of the images."""
        pixels = self._memory(len(encoded))
        if not encoded:
            return pixels
        pipeline = self._take(len(encoded))
        try:
            pipeline.decode(encoded, pixels, self._stream)
        except RuntimeError as error:  # from then on, the pipeline is of no use
            if not self._refused:
                logger.warning(
                    "DALI refuses a batch, which is now decoded on the CPU, as are others that it "
                    "refuses: %s",
                    _reason(error),
                )
            self._refused = True
            return None
        self._free.append(pipeline)
        return pixels

    def _complete(
        self, pixels: Tensor, rows: list[int], indices: Indices, epochs: Indices
    ) -> tuple[Tensor, Indices, tuple[BadRecord, ...]]:
        """Return the pixels of all rows, uint8 [b, S, S, 3], with their indices and bad records.

        `pixels` are those of `rows`; the others' come from the decoder on the CPU.
        """
        others = np.setdiff1d(np.arange(len(indices)), rows)
        if not len(others):
            return pixels, indices, ()
        decoded = self._strict.decode(indices[others], epochs[others])
        whole, taken = self._memory(len(indices)), indices.copy()
        whole[rows] = pixels
        whole[others] = decoded.images.permute(0, 2, 3, 1).to(self._device)
        taken[others] = decoded.indices
        return whole, taken, decoded.bad

    def _memory(self, count: int) -> Tensor:
        """Return uint8 [count, S, S, 3] on the device, with any content."""
        if self._stream is None:
            return self._buffers.take(count, self._image_size)
        shape = (count, self._image_size, self._image_size, 3)
        return torch.empty(shape, dtype=torch.uint8, device=self._device)

    def _take(self, count: int) -> "_Pipeline":
        """Return a pipeline for `count` images that nobody else uses."""
        try:
            pipeline = self._free.pop()
        except IndexError:
            return _Pipeline(self._device, count)
        return pipeline if pipeline.most >= count else _Pipeline(self._device, count)

    def _try(self) -> None:
        """Decode an image, so that a run finds out before its first batch if DALI does not work."""
        side = self._image_size
        image = simplejpeg.encode_jpeg(np.zeros((side, side, 3), np.uint8))
        try:
            with torch.cuda.stream(self._stream):
                pipeline = _Pipeline(self._device, 1)
                pipeline.decode([image], self._memory(1), self._stream)
        except RuntimeError as error:
            raise ValueError(
                f"data.decoder is dali, which does not work on {self._device}: {_reason(error)}; "
                "is it the package for this machine's CUDA (nvidia-dali-cuda130 or "
                "nvidia-dali-cuda120)? Or set data.decoder: cpu"
            ) from error


class _Pipeline:
    """One thread's DALI: up to `most` JPEGs at a time. Its own thread ends with it."""

    def __init__(self, device: torch.device, most: int) -> None:
        self.most = most
        on_gpu = device.type == "cuda"
        self._pipeline = Pipeline(
            batch_size=most,
            num_threads=1,
            device_id=device.index if on_gpu else None,
            prefetch_queue_depth=1,  # what is asked for, and nothing ahead of it
        )
        with self._pipeline:
            encoded = fn.external_source(name="encoded", dtype=types.UINT8, ndim=1, no_copy=True)
            images = fn.decoders.image(
                encoded,
                device="mixed" if on_gpu else "cpu",
                output_type=types.RGB,
                adjust_orientation=False,
                jpeg_fancy_upsampling=True,  # as libjpeg-turbo does
                # Room for far larger images than these, for each pipeline.
                device_memory_padding=0,
                host_memory_padding=0,
            )
            self._pipeline.set_outputs(images)
        self._pipeline.build()

    def decode(
        self, encoded: Sequence[bytes], out: Tensor, stream: torch.cuda.Stream | None
    ) -> None:
        """Decode into `out`, uint8 [k, S, S, 3], on `stream` if it is on a GPU, and wait for it.

        Raises `RuntimeError` for what cannot be decoded, and if an image has another size.
        """
        arrays: list[NDArray[np.uint8]] = [np.frombuffer(image, np.uint8) for image in encoded]
        (images,) = self._pipeline.run(encoded=arrays)
        shape = tuple(out.shape[1:])
        for found in images.shape():  # the copy believes that they fit
            if tuple(found) != shape:
                raise RuntimeError(f"an image of {tuple(found)}, where its header says {shape}")
        pointer = ctypes.c_void_p(out.data_ptr())
        if stream is None:
            images.copy_to_external(pointer)
        else:
            # Waits, for DALI's own memory is used again.
            images.copy_to_external(pointer, ctypes.c_void_p(stream.cuda_stream))


def is_whole_jpeg(encoded: bytes, image_size: int) -> bool:
    """Tell whether these bytes are a JPEG of that size without a sign of damage."""
    if encoded[:2] != _START or encoded[-2:] != _END:
        return False
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(encoded)
        check_jpeg(encoded, width, height)
    except ValueError:
        return False
    fits = (width, height) == (image_size, image_size) and colours in _COLOURS
    return fits and encoded.find(_HOLE, encoded.find(_SCAN)) < 0


def _reason(error: RuntimeError) -> str:
    """Return what DALI says was wrong, in one line, without where in its graph."""
    lines = [line.strip() for line in str(error).rpartition("encountered:")[2].splitlines()]
    return "; ".join(line for line in dict.fromkeys(lines) if line and "no longer" not in line)
