"""Embeds the images of a dataset and hashes what they look like, into files that are kept.

Shape legend: n images, m of a part, b of a batch, d embedding size.
"""

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data.cleaning.embeddings import EmbeddingFiles, row_type
from data.cleaning.hashes import BITS, hash_bits, pack_bits
from data.datasets.dataset import DatasetError, ImageDataset
from data.datasets.sources import ImageSource, RecordImages
from data.loading.decode import BadImage, decode_at
from data.pairs.bin_file import PairFile
from data.records.format import RecordError
from data.records.locations import shown
from recognition import FaceEmbedder
from recognition.distributed import World
from scripts.faces.gallery import about, embed_views
from scripts.faces.parts import begin_parts, make_parts, part_files

FORMAT: Final = 2  # rises when the rows of one job would differ from those before

Int64s = NDArray[np.int64]


@dataclass(frozen=True)
class Embedded:
    """The embeddings of a dataset."""

    files: list[Path]
    earlier: int  # rows that an earlier try had made

    def open(self) -> EmbeddingFiles:
        """Return them; all ranks must be done."""
        return EmbeddingFiles(self.files)


def embed_set(
    embedder: FaceEmbedder,
    source: ImageDataset | PairFile,
    folder: Path,
    world: World,
    advance: Callable[[int], object],
) -> Embedded:
    """Embed this rank's part of the images of a source, unless an earlier try did.

    The files are in a folder of `folder` that is named after the network and the images, so that
    embeddings are never taken for those of another network, or of images that have changed. Images
    that are missing or cannot be decoded are not good, and their embeddings zero.
    """
    job = {**about(embedder), "format": FORMAT, "images": fingerprint(source)}
    key = hashlib.sha256(json.dumps(job, sort_keys=True).encode()).hexdigest()[:16]
    place = folder / key
    begin_parts(place, job)
    earlier = make_parts(
        place, len(source), lambda rows: _rows(embedder, source, rows), advance, world
    )
    return Embedded(part_files(place, len(source)), earlier)


def fingerprint(source: ImageDataset | PairFile) -> str:
    """Return a hash of what the images of a source are, by their files' sizes and times.

    Labels take no part: a dataset whose labels alone were changed is not embedded again.
    """
    digest = hashlib.sha256()
    if isinstance(source, PairFile):
        _add_file(digest, source.path)
        return digest.hexdigest()
    for part in source.sources:
        digest.update(os.fsencode(f"{shown(part.location)} {len(part)}\n"))
        if isinstance(part, RecordImages):
            digest.update(f"{part.file.fingerprint}\n".encode())  # of a URL too
            digest.update(part.offsets.tobytes())  # which images, in which order
            if Path(part.location).is_file():
                _add_file(digest, Path(part.location))
        else:
            for row in range(len(part)):
                _add_file(digest, Path(part.describe(row)))
    return digest.hexdigest()


def _add_file(digest: Any, path: Path) -> None:
    digest.update(os.fsencode(f"{path.resolve()} "))
    if path.is_file():  # of a missing one the row is not good
        found = os.stat(path)
        digest.update(f"{found.st_size} {found.st_mtime_ns}\n".encode())


def _rows(embedder: FaceEmbedder, source: ImageSource, rows: Int64s) -> NDArray[Any]:
    """Return the rows of a part, [m] of `row_type`."""
    good, found = np.ones(len(rows), np.bool_), None
    try:
        found = _embed(embedder, source, rows)
    except (BadImage, DatasetError, RecordError):
        good = np.array([_is_good(source, row, embedder.image_size) for row in rows.tolist()])
        if good.any():
            found = _embed(embedder, source, rows[good])
    if found is None:
        side = embedder.image_size
        size = embedder.embed(np.zeros((1, side, side, 3), np.uint8)).shape[1]
    else:
        size = found.shape[1] - BITS
    part = np.zeros(len(rows), row_type(size))
    part["good"] = good
    if found is not None:
        # One that is not finite would make every sum so that it has a part in.
        finite = np.isfinite(found[:, :size]).all(axis=1)
        good[good], found = finite, found[finite]
        part["good"] = good
        norms = np.linalg.norm(found[:, :size], axis=1, keepdims=True)
        part["embedding"][good] = found[:, :size] / np.maximum(norms, np.finfo(np.float32).tiny)
        part["hash"][good] = pack_bits(found[:, size:])
    return part


def _embed(embedder: FaceEmbedder, source: ImageSource, rows: Int64s) -> NDArray[np.float32]:
    """Return embedding and bits of the hash side by side, float32 [m, d + 64].

    The hash is computed from the pixels that the network gets, so that nothing is decoded twice.
    """

    def model(images: Tensor) -> Tensor:
        embeddings = embedder.network.embed(images).to(torch.float32)
        return torch.cat([embeddings, hash_bits(images.to(torch.float32))], dim=1)

    views = embed_views(embedder, model, source, rows)
    found: NDArray[np.float32] = views.sum(axis=1)
    found[:, -BITS:] = views[:, 0, -BITS:]
    return found


def _is_good(source: ImageSource, index: int, side: int) -> bool:
    """Return whether an image can be used; raise what may pass, as the answer is kept."""
    try:
        decode_at(source, index, np.empty((side, side, 3), np.uint8))
    except (BadImage, DatasetError, RecordError) as error:
        cause = error.__cause__
        if isinstance(cause, OSError) and not isinstance(cause, FileNotFoundError):
            raise
        return False
    return True
