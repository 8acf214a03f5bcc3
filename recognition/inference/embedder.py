"""From aligned faces to embeddings, for use in a program.

Shape legend: n faces, b of a batch, H, W height and width, S the network's image side, d embedding
size.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from recognition.distributed import choose_device, current
from recognition.inference.networks import Network, load_network
from recognition.inference.pixels import MID_GREY, PixelFormat

Pixels = NDArray[np.uint8]
Face = Pixels | str | Path  # uint8 [H, W, 3], RGB, or the path of an image
EXPECTED_FACE: Final = (
    "expected an aligned face, which is square, in RGB; scripts/align_faces.py cuts faces out of "
    "photos"
)
NOT_FINITE: Final = (
    "makes embeddings that are not finite: its weights are damaged, or its training had failed; "
    "use an earlier checkpoint"
)
_FORMATS: Final = ("BMP", "JPEG", "PNG", "WEBP")


class FaceError(ValueError):
    """Something that is no aligned face; has what it is instead, and which one of a list."""


class FaceEmbedder:
    """A network for faces that are aligned to its template.

    `network` is on `device`; `load` makes both. `flip` adds the embedding of each mirror image, as
    published accuracies do, at twice the time.
    """

    def __init__(
        self, network: Network, device: torch.device, *, batch_size: int = 64, flip: bool = False
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}: expected at least 1 face")
        self.network = network
        self.device = device
        self.batch_size = batch_size
        self.flip = flip

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        device: str = "auto",
        batch_size: int = 64,
        flip: bool | None = None,
        pixels: PixelFormat | None = None,
        image_size: int | None = None,
    ) -> Self:
        """Return the network of a run, a checkpoint, an export, or a file of any known form.

        `device` is `auto` (a GPU if there is one), `cpu` or `cuda`; under `torchrun` the GPU is the
        rank's. What is left out follows from the file: whether its thresholds are for embeddings
        with `flip`, how pixels are prepared, and the size of an image. Raises `ValueError` for a
        path that means no network.
        """
        chosen, _ = choose_device(device, current())
        network = load_network(Path(path), chosen, pixels=pixels, image_size=image_size)
        return cls(
            network, chosen, batch_size=batch_size, flip=network.flip if flip is None else flip
        )

    @property
    def image_size(self) -> int:
        """S; faces of another size are resized to it."""
        return self.network.image_size

    def embed(
        self, faces: Pixels | Face | Sequence[Face], *, normalise: bool = True
    ) -> NDArray[np.float32]:
        """Return the embeddings, float32 [n, d], of length 1 unless `normalise` is false.

        `faces` are uint8 [n, H, W, 3], RGB, or a list of arrays [H, W, 3] and paths of images,
        which are read a batch at a time. The cosine of two faces is the product of their
        embeddings. Raises `FaceError` for anything else, for faces that are not square, and for
        images that cannot be read.
        """
        found = [self._embed(batch) for batch in self._batches(faces)]
        if not found:
            raise FaceError("no faces: expected at least one")
        embeddings = np.concatenate(found)
        if normalise:
            norms = np.linalg.norm(embeddings, axis=1, keepdims=True)
            embeddings = embeddings / np.maximum(norms, np.finfo(np.float32).tiny)
        return embeddings

    def _batches(self, faces: Pixels | Face | Sequence[Face]) -> Iterator[list[Pixels]]:
        if isinstance(faces, str | Path) or (isinstance(faces, np.ndarray) and faces.ndim == 3):
            faces = [faces]
        if isinstance(faces, np.ndarray) and faces.ndim != 4:
            raise FaceError(f"found an array {list(faces.shape)}, expected uint8 [n, H, W, 3]")
        if not isinstance(faces, Sequence | np.ndarray):
            raise FaceError(f"found {type(faces)}, expected an array, a path, or a list of them")
        for start in range(0, len(faces), self.batch_size):
            part = faces[start : start + self.batch_size]
            yield [prepare(face, self.image_size, start + i) for i, face in enumerate(part)]

    def _embed(self, batch: list[Pixels]) -> NDArray[np.float32]:
        pixels = torch.from_numpy(np.stack(batch)).to(self.device)
        images = pixels.permute(0, 3, 1, 2).to(torch.float32).sub_(MID_GREY).div_(MID_GREY)
        with torch.inference_mode():
            embeddings = self._checked(images)
            if self.flip:
                embeddings = embeddings + self._checked(images.flip(3))
        return embeddings.cpu().numpy()

    def _checked(self, images: Tensor) -> Tensor:
        embeddings = self.network.embed(images)
        if embeddings.dim() != 2 or len(embeddings) != len(images):
            raise ValueError(
                f"{self.network.file} returns {list(embeddings.shape)} for images "
                f"{list(images.shape)}: expected one embedding per image"
            )
        if not embeddings.isfinite().all():
            raise ValueError(f"{self.network.file} {NOT_FINITE}")
        return embeddings.to(torch.float32)


def prepare(face: Any, image_size: int, number: int = 0) -> Pixels:
    """Return a face, an array or the path of an image, as uint8 [S, S, 3]; see `embed`."""
    name = f"face {number}"
    if isinstance(face, str | Path):
        face, name = read_image(Path(face)), str(face)
    if not isinstance(face, np.ndarray) or face.dtype != np.uint8 or face.ndim != 3:
        kind = f"{face.dtype} {list(face.shape)}" if isinstance(face, np.ndarray) else type(face)
        raise FaceError(f"{name} is {kind}: expected uint8 [H, W, 3], RGB, or the path of an image")
    height, width, channels = face.shape
    if channels != 3 or height != width or not height:
        raise FaceError(f"{name} is {list(face.shape)}: {EXPECTED_FACE}")
    if height != image_size:
        image = Image.fromarray(face)
        # The filter that training resizes with.
        face = np.asarray(image.resize((image_size, image_size), Image.Resampling.LANCZOS))
    pixels: Pixels = face
    return pixels


def read_image(path: Path) -> Pixels:
    """Return an image as RGB, uint8 [H, W, 3]; raises `FaceError` if it cannot be read.

    Orientation tags are ignored, as in training: aligned faces are upright.
    """
    try:
        with Image.open(path, formats=_FORMATS) as image:
            if image.mode[0] in "IF":
                raise FaceError(f"{path} has more than 8 bits per channel: convert it to 8")
            return np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise FaceError(f"{path} cannot be read as an image: {error}") from None
