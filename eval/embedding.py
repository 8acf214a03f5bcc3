"""Embeddings of encoded images: decoded ahead, divided among all ranks.

Shape legend: b images of a batch, n images, f = 2 with flip and 1 without, d embedding size, S
image side.
"""

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from typing import Any, Final

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from data.augmentations.augment import normalise
from data.datasets.sources import ImageSource
from data.loading.decode import decode_batch
from data.loading.tuning import usable_cores
from data.loading.workers import Workers
from recognition.distributed import World, part_range
from recognition.failure import together

Model = Callable[[Tensor], Tensor]

MOST_DECODERS: Final = 16  # threads per rank with a GPU: more wait for the interpreter's lock


class EmbeddingError(ValueError):
    """A model that does not return one embedding per image; has the shape that it returned."""


def embed_images(
    model: Model,
    source: ImageSource,
    indices: NDArray[np.int64],
    *,
    image_size: int,
    batch_size: int,
    device: torch.device,
    flip: bool,
    world: World,
) -> NDArray[np.float32]:
    """Return the embeddings of the images at `indices`, float32 [n, f, d], on every rank.

    `model` maps float32 [b, 3, S, S], RGB in [-1, 1], channels_last, on `device` to [b, d];
    `[:, 1]` of the result are the embeddings of the mirror images. Rank r embeds
    `part_range(n, world.size, r)` of the images; all ranks must call.

    For a GPU threads decode ahead, one batch each: one more decoded batch than threads is in
    memory at a time. On a CPU all cores decode a batch, then all embed it: a thread that decodes
    beside the network keeps one of its cores, and the others, which wait for that one at each
    layer, lose two to three times what decoding takes.

    Raises `EmbeddingError` for a model output of another shape and `BadImage` for an image that
    cannot be decoded; the ranks without that error raise `ValueError`.
    """
    start, stop = part_range(len(indices), world.size, world.rank)
    chunks = [indices[i : min(i + batch_size, stop)] for i in range(start, stop, batch_size)]

    def embed() -> NDArray[np.float32] | None:
        embedded: list[Tensor] = []
        with torch.no_grad(), closing(_decoded(source, chunks, image_size, device, world)) as every:
            for pixels in every:
                images = normalise(pixels.to(device, non_blocking=True).permute(0, 3, 1, 2))
                views = (images, images.flip(3)) if flip else (images,)
                embedded.append(torch.stack([_embed(model, view) for view in views], dim=1))
        return torch.cat(embedded).cpu().numpy() if embedded else None  # a rank may have none

    local = together(embed)
    parts: list[Any] = [local] * world.size
    if world.size > 1:
        dist.all_gather_object(parts, local)
    return np.concatenate([part for part in parts if part is not None])


def _decoded(
    source: ImageSource, chunks: Sequence[NDArray[np.int64]], side: int, device: torch.device,
    world: World,
) -> Generator[Tensor]:  # fmt: skip
    """Yield the pixels of each chunk, uint8 [b, S, S, 3]; see `embed_images`."""
    on_gpu = device.type == "cuda"

    def room(chunk: NDArray[np.int64]) -> Tensor:
        # From pinned memory a copy to the GPU waits neither for the host nor for the network.
        return torch.empty(len(chunk), side, side, 3, dtype=torch.uint8, pin_memory=on_gpu)

    def decode(chunk: NDArray[np.int64], pixels: Tensor) -> Tensor:
        decode_batch(source, chunk, side, pixels.numpy())
        return pixels

    if on_gpu:
        workers = max(1, min(MOST_DECODERS, usable_cores() // world.local_size))
        with Workers(workers, background=True, ahead=workers) as pool:
            yield from pool.in_order(lambda chunk: decode(chunk, room(chunk)), chunks)
        return
    with Workers(torch.get_num_threads()) as pool:
        for chunk in chunks:
            pixels = room(chunk)
            size = -(-len(chunk) // torch.get_num_threads())
            pieces = [chunk[first : first + size] for first in range(0, len(chunk), size)]
            parts = zip(pieces, torch.split(pixels, size), strict=True)
            for _ in pool.in_order(lambda part: decode(*part), parts):
                pass
            yield pixels


def _embed(model: Model, images: Tensor) -> Tensor:
    """Return the model's embeddings, float32 [b, d]."""
    embeddings = model(images)
    if embeddings.dim() != 2 or len(embeddings) != len(images):
        raise EmbeddingError(
            f"the model returned {list(embeddings.shape)} for images {list(images.shape)}: "
            f"expected one embedding per image, [{len(images)}, embedding size]"
        )
    return embeddings.to(torch.float32)
