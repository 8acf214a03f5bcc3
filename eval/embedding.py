"""Embeddings of encoded images: decoded ahead, divided among all ranks.

Shape legend: b images of a batch, n images, f = 2 with flip and 1 without, d embedding size, S
image side.
"""

from collections.abc import Callable
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

MOST_DECODERS: Final = 8  # threads per rank with a GPU; crops of large photos may have more


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
    workers: int = 1,
) -> NDArray[np.float32]:
    """Return the embeddings of the images at `indices`, float32 [n, f, d], on every rank.

    `model` maps float32 [b, 3, S, S], RGB in [-1, 1], channels_last, on `device` to [b, d];
    `[:, 1]` of the result are the embeddings of the mirror images. Rank r embeds
    `part_range(n, world.size, r)` of the images; all ranks must call. At least `workers` threads
    decode, one batch each: one more decoded batch than threads is in memory at a time.

    Raises `EmbeddingError` for a model output of another shape and `BadImage` for an image that
    cannot be decoded; the ranks without that error raise `ValueError`.
    """
    start, stop = part_range(len(indices), world.size, world.rank)
    chunks = [indices[i : min(i + batch_size, stop)] for i in range(start, stop, batch_size)]

    on_gpu = device.type == "cuda"
    if on_gpu:
        workers = max(workers, min(MOST_DECODERS, usable_cores() // world.local_size))

    def decode(chunk: NDArray[np.int64]) -> Tensor:
        shape = (len(chunk), image_size, image_size, 3)
        # From pinned memory a copy to the GPU waits neither for the host nor for the network.
        pixels = torch.empty(shape, dtype=torch.uint8, pin_memory=on_gpu)
        decode_batch(source, chunk, image_size, pixels.numpy())
        return pixels

    def embed() -> NDArray[np.float32] | None:
        embedded: list[Tensor] = []
        with torch.no_grad(), Workers(workers, background=True, ahead=workers) as pool:
            for pixels in pool.in_order(decode, chunks):
                images = normalise(pixels.to(device, non_blocking=True).permute(0, 3, 1, 2))
                views = (images, images.flip(3)) if flip else (images,)
                embedded.append(torch.stack([_embed(model, view) for view in views], dim=1))
        return torch.cat(embedded).cpu().numpy() if embedded else None  # a rank may have none

    local = together(embed)
    parts: list[Any] = [local] * world.size
    if world.size > 1:
        dist.all_gather_object(parts, local)
    return np.concatenate([part for part in parts if part is not None])


def _embed(model: Model, images: Tensor) -> Tensor:
    """Return the model's embeddings, float32 [b, d]."""
    embeddings = model(images)
    if embeddings.dim() != 2 or len(embeddings) != len(images):
        raise EmbeddingError(
            f"the model returned {list(embeddings.shape)} for images {list(images.shape)}: "
            f"expected one embedding per image, [{len(images)}, embedding size]"
        )
    return embeddings.to(torch.float32)
