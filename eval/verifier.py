"""Verification sets that are opened once, to verify a model as often as it changes.

Shape legend: p pairs, 2p images of a set, n unique ones.
"""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from data.pairs.bin_file import PairFile, read_pair_file
from eval.embedding import Model, embed_images
from eval.faces import sample_faces
from eval.verification import (
    VerificationError,
    VerificationResult,
    check_pairs,
    verify_embeddings,
)
from recognition.distributed import World


@dataclass(frozen=True, eq=False)
class VerificationSet:
    """A verification set, and which of its images are the same."""

    name: str  # the file's, without `.bin`
    pairs: PairFile
    unique: NDArray[np.int64]  # [n], index of the first occurrence of each different image
    rows: NDArray[np.int64]  # [2p], the row of `unique` for each image


class Verifier:
    """Verifies models on verification sets by the published protocol.

    `sets` are what `find_set` takes. The ranks of `world` share the work, and each gets all
    results. `flip` adds embeddings of mirror images, as published figures do.

    The files are opened and checked here. Raises `VerificationError` for a set that does not
    exist (with those that do), is listed twice or is too small, and `PairFileError` for a file
    that is not a verification set.
    """

    def __init__(
        self,
        sets: Sequence[str | Path],
        *,
        folder: Path | None = None,
        image_size: int,
        batch_size: int = 128,
        world: World | None = None,
        flip: bool = True,
    ) -> None:
        if batch_size < 1:
            raise VerificationError(f"batch_size is {batch_size}: expected at least 1 image")
        self.image_size = image_size
        self.batch_size = batch_size
        self.world = world or World()
        self.flip = flip
        self.sets = [_open(find_set(wanted, folder)) for wanted in sets]
        names = [item.name for item in self.sets]
        for name in names:
            if names.count(name) > 1:
                raise VerificationError(
                    f"verification set {name} is listed {names.count(name)} times, and results "
                    "are named after the files: list each set once, or rename a file"
                )

    def __call__(self, model: Model, device: torch.device) -> list[VerificationResult]:
        """Return the result of every set, in order; it is the same on every rank.

        `model` maps float32 [b, 3, S, S] on `device`, RGB in [-1, 1], to embeddings [b, d]. An
        `nn.Module` is in evaluation mode during the call; any other function has to take care of
        that itself. Raises `EmbeddingError`, `BadImage`, or `VerificationError` for embeddings
        that are not finite.
        """
        with _evaluation_mode(model):
            return [self._verify(item, model, device) for item in self.sets]

    def _verify(
        self, item: VerificationSet, model: Model, device: torch.device
    ) -> VerificationResult:
        embeddings = embed_images(
            model,
            item.pairs,
            item.unique,
            image_size=self.image_size,
            batch_size=self.batch_size,
            device=device,
            flip=self.flip,
            world=self.world,
        )
        flipped = embeddings[:, 1] if self.flip else None
        plain, same = embeddings[:, 0], item.pairs.same
        result = verify_embeddings(item.name, plain, flipped, same, item.rows)
        faces = sample_faces(item.pairs.images, plain, same, item.rows, item.unique)
        return replace(result, faces=faces)


def find_set(wanted: str | Path, folder: Path | None) -> Path:
    """Return the file of a verification set given by name or by path.

    A name is looked up in `folder`. A path ends in `.bin` and is relative to the working directory,
    or to `folder` if there is no such file. Raises `VerificationError` with the sets that exist.
    """
    path = Path(wanted)
    if path.suffix == ".bin" and path.is_file():
        return path
    if folder is not None:
        inside = folder / (path if path.suffix == ".bin" else f"{wanted}.bin")
        if inside.is_file():
            return inside
    searched = folder if folder is not None else path.parent
    existing = sorted(file.name.removesuffix(".bin") for file in searched.glob("*.bin"))
    raise VerificationError(
        f"verification set {str(wanted)!r} does not exist; sets in {searched}: "
        f"{', '.join(existing) or 'none'}; name one of these, or give the path of a .bin file"
    )


def _open(path: Path) -> VerificationSet:
    """Read a set and find its repeated images: an image of many pairs is embedded once."""
    pairs = read_pair_file(path)
    name = path.name.removesuffix(".bin")
    check_pairs(name, pairs.same)
    seen: dict[bytes, int] = {}
    digests = (hashlib.blake2b(image, digest_size=16).digest() for image in pairs.images)
    rows = np.array([seen.setdefault(digest, len(seen)) for digest in digests], dtype=np.int64)
    _, unique = np.unique(rows, return_index=True)
    return VerificationSet(name, pairs, unique, rows)


@contextmanager
def _evaluation_mode(model: Model) -> Iterator[None]:
    """Put a module into evaluation mode, and each of its parts back into its own mode."""
    if not isinstance(model, nn.Module):
        yield
        return
    modes = [(part, part.training) for part in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode
