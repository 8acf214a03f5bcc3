"""The images of a set: opened, hashed, and each different one embedded once per model.

Shape legend: n images, u different ones, f = 2 with flip and 1 without, d embedding size.
"""

import hashlib
import json
import logging
import time
import zipfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from data.alignment import TEMPLATE, TEMPLATE_SIZE, CropMethod, crop_face, fit_similarity
from data.datasets.sources import ImageSource
from data.files import atomic_write
from data.loading.tuning import usable_cores
from eval.embedding import embed_images
from eval.protocols.rates import Floats
from eval.suites.models import LoadedModel
from recognition.distributed import World, from_main

log = logging.getLogger(__name__)

CACHE_FORMAT: Final = 1  # rises when embeddings of one key would differ from those before


@dataclass(frozen=True)
class ImageList:
    """Image files by number."""

    root: Path
    paths: Sequence[str]

    def encoded(self, index: int) -> bytes:
        """Return the content of a file; raises `ValueError` if there is none."""
        path = self.root / self.paths[index]
        try:
            return path.read_bytes()
        except OSError as error:
            raise ValueError(f"{path} cannot be read: {error}; copy the image again") from error

    def describe(self, index: int) -> str:
        """Return the path of an image."""
        return str(self.root / self.paths[index])


@dataclass(frozen=True, eq=False)
class FaceCrops:
    """Faces cropped from image files by their five landmarks, each as a BMP, which is lossless."""

    files: ImageList
    points_n52: Floats
    method: CropMethod

    def encoded(self, index: int) -> bytes:
        """Return a face; raises `ValueError` for a file that is no image."""
        try:
            photo = Image.open(BytesIO(self.files.encoded(index))).convert("RGB")
        except (OSError, SyntaxError, Image.DecompressionBombError) as error:
            raise ValueError(f"{self.describe(index)}: {error}; copy the image again") from error
        transform = fit_similarity(self.points_n52[index], TEMPLATE)
        content = BytesIO()
        crop_face(photo, transform, TEMPLATE_SIZE, self.method).save(content, "BMP")
        return content.getvalue()

    def describe(self, index: int) -> str:
        """Return the path of a face's photo."""
        return self.files.describe(index)

    def key(self, index: int) -> bytes:
        """Return what a face follows from, which is read faster than the face is cropped."""
        points: bytes = self.points_n52[index].astype("<f8").tobytes()
        return self.files.encoded(index) + points + self.method.encode()


@dataclass(frozen=True, eq=False)
class ImageSet:
    """n images, of which equal ones are embedded once."""

    source: ImageSource
    unique: NDArray[np.int64]  # [u], the first occurrence of each different image
    rows: NDArray[np.int64]  # [n], the row of `unique` for each image
    sha256: str  # of all different images in their order


def image_set(
    source: ImageSource,
    count: int,
    key: Callable[[int], bytes | memoryview] | None = None,
) -> ImageSet:
    """Return the images 0 … count - 1 of a source, all of which are read to hash them.

    `key` gives the bytes that an image follows from, by default the image itself. Raises
    `ValueError` for an image that cannot be read, and for none.
    """
    if not count:
        raise ValueError("no images: expected at least one")
    read = key or source.encoded
    with ThreadPoolExecutor(usable_cores()) as pool:
        digests = list(pool.map(lambda index: hashlib.sha256(read(index)).digest(), range(count)))
    seen: dict[bytes, int] = {}
    rows = np.array([seen.setdefault(digest, len(seen)) for digest in digests], dtype=np.int64)
    _, unique = np.unique(rows, return_index=True)
    digest = hashlib.sha256(b"".join(seen)).hexdigest()
    return ImageSet(source, unique, rows, digest)


@dataclass(frozen=True, eq=False)
class Embedded:
    """The embeddings of the different images of a set; only rank 0 is sure to have them."""

    embeddings: NDArray[np.float32]  # [u, f, d]
    cached: bool
    seconds: float

    @property
    def plain(self) -> NDArray[np.float32]:
        """Embeddings of the images, [u, d]."""
        return self.embeddings[:, 0]

    @property
    def flipped(self) -> NDArray[np.float32] | None:
        """Embeddings of the mirrored images, [u, d]; None without flip."""
        return self.embeddings[:, 1] if self.embeddings.shape[1] == 2 else None

    def features(self) -> NDArray[np.float32]:
        """The sum of both, [u, d], which is not normalised."""
        return self.plain if self.flipped is None else self.plain + self.flipped


@dataclass(frozen=True)
class Embedder:
    """Embeds sets on all ranks, and keeps what it embedded in `cache`, or nowhere.

    Embeddings are found again by the hashes of model and images, by what the pixels are adapted to,
    and by what changes their last bits: the kind of device, and torch.
    """

    device: torch.device
    world: World
    cache: Path | None
    batch_size: int
    flip: bool = True
    advance: Callable[[int], object] = lambda count: None  # gets the size of each batch

    def __call__(self, model: LoadedModel, images: ImageSet) -> Embedded:
        """Return the embeddings; all ranks must call. Raises as `embed_images` does."""
        started = time.perf_counter()
        path = self._path(model, images)
        found = self._read(path, len(images.unique)) if self.world.is_main else None
        cached = from_main(found is not None)
        if not cached:
            found = embed_images(
                self._counted(model),
                images.source,
                images.unique,
                image_size=model.image_size,
                batch_size=self.batch_size,
                device=self.device,
                flip=self.flip,
                world=self.world,
            )
            if self.world.is_main:
                self._write(path, found)
        if found is None:
            found = np.empty((0, 1 + self.flip, 0), dtype=np.float32)
        return Embedded(found, cached, time.perf_counter() - started)

    def _counted(self, model: LoadedModel) -> Callable[[torch.Tensor], torch.Tensor]:
        def embed(images: torch.Tensor) -> torch.Tensor:
            self.advance(len(images))
            return model.embed(images)

        return embed

    def _path(self, model: LoadedModel, images: ImageSet) -> Path | None:
        if self.cache is None:
            return None
        key = {
            "format": CACHE_FORMAT,
            "model": model.sha256,
            "input": [model.image_size, *vars(model.pixels).values()],
            "images": images.sha256,
            "flip": self.flip,
            "device": self.device.type,
            "torch": str(torch.__version__),
            "details": model.details,  # as the version of onnxruntime, and its hashes of weights
        }
        return self.cache / f"{hashlib.sha256(json.dumps(key).encode()).hexdigest()}.npz"

    def _read(self, path: Path | None, count: int) -> NDArray[np.float32] | None:
        """Return the embeddings of a file whose checksum holds; None if there is none."""
        if path is None or not path.exists():
            return None
        try:
            with np.load(path) as content:
                embeddings: NDArray[np.float32] = content["embeddings"]
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            log.warning("%s is damaged (%s): the images are embedded again", path, error)
            return None
        if embeddings.dtype != np.float32 or embeddings.shape[:2] != (count, 1 + self.flip):
            log.warning(
                "%s holds %s %s, expected float32 [%d, %d, d]: the images are embedded again",
                path, embeddings.dtype, list(embeddings.shape), count, 1 + self.flip,
            )  # fmt: skip
            return None
        return embeddings

    def _write(self, path: Path | None, embeddings: NDArray[np.float32] | None) -> None:
        if path is None or embeddings is None:
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(path) as file:
                np.savez(file, embeddings=embeddings)
        except OSError as error:  # a full disk must not cost the figures
            log.warning("%s cannot be written: %s; the next run embeds again", path, error)
