"""Decoding with NVIDIA DALI: on a GPU, where the pixels stay, or on the CPU for tests.

DALI decodes the images for which it gives the same pixels as `data.loading.decode`: complete JPEGs
of the size that training takes. `CpuDecoder` decodes all others, and reports what is wrong with an
image. DALI does not: it fills in whatever is missing. So images with signs of damage are left to
`CpuDecoder`, too. Damage without a sign, wrong or missing bytes between header and end, gives wrong
pixels here where `CpuDecoder` would have refused the image.

Each thread of the loader has a pipeline of its own while it decodes a batch.

Shape legend: b samples of a batch, of which DALI decodes k; S image side.
"""

import ctypes
import logging
import threading
import time
from collections.abc import Sequence

import numpy as np
import simplejpeg
import torch
from numpy.typing import NDArray
from nvidia.dali import Pipeline, fn, types
from torch import Tensor

from data.datasets.dataset import FaceDataset
from data.loading.bad_records import BadRecord, Indices
from data.loading.cpu_decoder import CpuDecoder, Decoded, ImageBuffers
from data.loading.decode_limits import check_jpeg
from data.loading.tuning import measure_time

logger = logging.getLogger(__name__)

_START, _SCAN, _END = b"\xff\xd8", b"\xff\xda", b"\xff\xd9"
_COLOURS = ("YCbCr", "RGB", "Gray")  # CMYK is converted otherwise
# A block that a disk has lost reads as zeros; no encoder writes so many of them in a row.
_HOLE = bytes(16)


class DaliDecoder:
    """Decodes with DALI what it decodes to the pixels of `CpuDecoder`, which decodes the rest.

    On the CPU the pixels are bit-identical; on a GPU the last bits of JPEGs may differ. Images are
    decoded and delivered on `device`; the other arguments are those of `CpuDecoder`. Raises
    `ValueError` if DALI does not work on the device.
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
        self._dataset = dataset
        self._image_size = image_size
        self._cpu = CpuDecoder(
            dataset,
            image_size=image_size,
            pin_memory=pin_memory,
            replacement_seed=replacement_seed,
        )
        self._buffers = ImageBuffers(pin_memory=False)
        self._stream: torch.cuda.Stream | None = None
        if device.type == "cuda":
            if device.index is None:  # the loader's threads may have another current device
                device = torch.device("cuda", torch.cuda.current_device())
            # A separate stream, so that decoding and training do not wait for each other. One for
            # all threads: their copies are short, and torch caches memory per stream.
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._device = device
        self._free: list[_Pipeline] = []  # a list's append and pop are atomic
        self._unlogged = threading.Lock()  # taken by the thread that logs a refusal, once for all
        self._check_device()

    @property
    def hint(self) -> str:
        """See `BatchDecoder`."""
        if self._stream is None:
            return "set data.decoder: cpu, as DALI decodes on the same cores"
        return "start fewer ranks on this machine, or use one with more cores"

    def decode(self, indices: Indices, epochs: Indices) -> Decoded:
        """See `BatchDecoder`: `images` are on the device, and complete."""
        with measure_time(len(indices)) as timings:
            encoded = [self._read(index) for index in indices.tolist()]
            rows = [row for row, image in enumerate(encoded) if image is not None]
            with torch.cuda.stream(self._stream):  # does nothing on the CPU
                started = time.perf_counter()
                pixels = self._decode([image for image in encoded if image is not None])
                waited = time.perf_counter() - started
                if pixels is None:
                    rows, pixels = [], self._memory(0)
                pixels, taken, bad = self._complete(pixels, rows, indices, epochs)
                if self._stream is not None:
                    self._stream.synchronize()  # another stream uses the pixels
        # This thread slept while DALI's thread decoded.
        timings.decoding = min(timings.wall - timings.queued, timings.decoding + waited)
        return Decoded(pixels.permute(0, 3, 1, 2), taken, bad, timings)

    def close(self) -> None:
        """See `BatchDecoder`: ends DALI's threads and frees its memory on the GPU."""
        self._free.clear()

    def _read(self, index: int) -> bytes | None:
        """Return the image at `index` if DALI can decode it.

        The bytes are copied, so that a wait for the disk happens here and is counted as one.
        """
        try:
            encoded = bytes(self._dataset.encoded(index))
        except ValueError:  # `CpuDecoder` will meet and report it
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
        except RuntimeError as error:  # after which the pipeline cannot be used again
            if self._unlogged.acquire(blocking=False):
                logger.warning(
                    "DALI refuses a batch: the CPU decodes it, and others that DALI refuses: %s",
                    _reason(error),
                )
            return None
        self._free.append(pipeline)
        return pixels

    def _complete(
        self, pixels: Tensor, rows: list[int], indices: Indices, epochs: Indices
    ) -> tuple[Tensor, Indices, tuple[BadRecord, ...]]:
        """Return the pixels of all rows, uint8 [b, S, S, 3], with their indices and bad records.

        `pixels` are those of `rows`; `CpuDecoder` decodes the others.
        """
        others = np.setdiff1d(np.arange(len(indices)), rows)
        if not len(others):
            return pixels, indices, ()
        decoded = self._cpu.decode(indices[others], epochs[others])
        whole, taken = self._memory(len(indices)), indices.copy()
        whole[rows] = pixels
        whole[others] = decoded.images.permute(0, 2, 3, 1).to(self._device)
        taken[others] = decoded.indices
        return whole, taken, decoded.bad

    def _memory(self, count: int) -> Tensor:
        """Return uninitialised memory on the device, uint8 [count, S, S, 3]."""
        if self._stream is None:
            return self._buffers.take(count, self._image_size)
        shape = (count, self._image_size, self._image_size, 3)
        return torch.empty(shape, dtype=torch.uint8, device=self._device)

    def _take(self, count: int) -> "_Pipeline":
        """Return a pipeline for `count` images that no other thread uses."""
        try:
            pipeline = self._free.pop()
        except IndexError:
            return _Pipeline(self._device, count)
        return pipeline if pipeline.most >= count else _Pipeline(self._device, count)

    def _check_device(self) -> None:
        """Decode an image, so that a run fails before its first batch if DALI does not work."""
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
    """A DALI pipeline for up to `most` JPEGs at a time, whose thread ends with it."""

    def __init__(self, device: torch.device, most: int) -> None:
        self.most = most
        on_gpu = device.type == "cuda"
        self._pipeline = Pipeline(
            batch_size=most,
            num_threads=1,
            device_id=device.index if on_gpu else None,
            prefetch_queue_depth=1,  # only what is asked for
        )
        with self._pipeline:
            encoded = fn.external_source(name="encoded", dtype=types.UINT8, ndim=1, no_copy=True)
            images = fn.decoders.image(
                encoded,
                device="mixed" if on_gpu else "cpu",
                output_type=types.RGB,
                adjust_orientation=False,
                jpeg_fancy_upsampling=True,  # as libjpeg-turbo does
                # By default each pipeline has room for far larger images than these.
                device_memory_padding=0,
                host_memory_padding=0,
            )
            self._pipeline.set_outputs(images)
        self._pipeline.build()

    def decode(
        self, encoded: Sequence[bytes], out: Tensor, stream: torch.cuda.Stream | None
    ) -> None:
        """Decode into `out`, uint8 [k, S, S, 3], and wait for it; on `stream` if `out` is on a GPU.

        Raises `RuntimeError` if an image cannot be decoded or has another size.
        """
        arrays: list[NDArray[np.uint8]] = [np.frombuffer(image, np.uint8) for image in encoded]
        (images,) = self._pipeline.run(encoded=arrays)
        shape = tuple(out.shape[1:])
        for found in images.shape():  # the copy does not check that they fit
            if tuple(found) != shape:
                raise RuntimeError(f"an image is {tuple(found)}, but its header says {shape}")
        pointer = ctypes.c_void_p(out.data_ptr())
        if stream is None:
            images.copy_to_external(pointer)
        else:
            # Waits until the copy is done, as DALI reuses its memory.
            images.copy_to_external(pointer, ctypes.c_void_p(stream.cuda_stream))


def is_whole_jpeg(encoded: bytes, image_size: int) -> bool:
    """Return whether these bytes are a JPEG of this size without a sign of damage."""
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
    """Return the reason in DALI's error in one line, without the position in its graph."""
    lines = [line.strip() for line in str(error).rpartition("encountered:")[2].splitlines()]
    return "; ".join(line for line in dict.fromkeys(lines) if line and "no longer" not in line)
