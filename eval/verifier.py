"""Verification sets, opened once and judged as often as a model changes.

Shape legend: p pairs, 2p images of a set, n unique ones.
"""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from data.pairs.bin_file import PairFile, read_pair_file
from eval.embedding import Model, embed_images
from eval.verification import (
    VerificationError,
    VerificationResult,
    check_pairs,
    verify_embeddings,
)
from recognition.distributed import World


@dataclass(frozen=True, eq=False)
class VerificationSet:
    """A verification set and which of its images are the same file.

    Attributes:
        name: the file's name without `.bin`.
        pairs: the pairs.
        unique: int64 [n], the first place of each different image.
        places: int64 [2p], which of these each image is.
    """

    name: str
    pairs: PairFile
    unique: NDArray[np.int64]
    places: NDArray[np.int64]


class Verifier:
    """Judges models on verification sets by the published protocol.

    Args:
        sets: names (`lfw`) of `.bin` files in `folder`, or paths to such files.
        folder: where names are looked up.
        image_size: side of the images that the model takes.
        batch_size: images a forward pass.
        world: this process's place; all ranks share the work and get all results.
        flip: whether embeddings of mirror images are added, as published figures have it.

    The files are opened and checked here: raises `VerificationError` for a set that does not
    exist (with those that do), one named twice or too small, and `PairFileError` for a file that
    is not a verification set.
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
                    f"verification set {name} is listed {names.count(name)} times: results are "
                    "known by the name of the file, so name each set once, or rename a file"
                )

    def __call__(self, model: Model, device: torch.device) -> list[VerificationResult]:
        """Return the result of every set, in order; the same on every rank.

        `model` maps float32 [b, 3, S, S] on `device`, RGB in [-1, 1], to embeddings [b, d]. An
        `nn.Module` is put into evaluation mode for the time of the call; a plain function sees
        to that itself. Raises `EmbeddingError`, `BadImage`, or `VerificationError` for embeddings
        that are not finite.
        """
        with _evaluating(model):
            return [self._judge(item, model, device) for item in self.sets]

    def _judge(
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
        return verify_embeddings(item.name, embeddings[:, 0], flipped, item.pairs.same, item.places)


def find_set(wanted: str | Path, folder: Path | None) -> Path:
    """Return the file of a verification set given by name or by path.

    A name is looked up in `folder`; a path ends in `.bin` and counts from the working folder, or
    from `folder` if it is not there. Raises `VerificationError` with the sets that exist.
    """
    path = Path(wanted)
    if path.suffix == ".bin" and path.is_file():
        return path
    if folder is not None:
        inside = folder / (path if path.suffix == ".bin" else f"{wanted}.bin")
        if inside.is_file():
            return inside
    searched = folder if folder is not None else path.parent
    there = sorted(file.name.removesuffix(".bin") for file in searched.glob("*.bin"))
    raise VerificationError(
        f"verification set {str(wanted)!r} does not exist; sets in {searched}: "
        f"{', '.join(there) or 'none'}; name one of these, or give the path of a .bin file"
    )


def _open(path: Path) -> VerificationSet:
    """Read a set and find its repeated images; a face in many pairs is embedded once."""
    pairs = read_pair_file(path)
    name = path.name.removesuffix(".bin")
    check_pairs(name, pairs.same)
    seen: dict[bytes, int] = {}
    unique: list[int] = []
    places = np.empty(len(pairs), dtype=np.int64)
    for i, image in enumerate(pairs.images):
        digest = hashlib.blake2b(image, digest_size=16).digest()
        if digest not in seen:
            seen[digest] = len(unique)
            unique.append(i)
        places[i] = seen[digest]
    return VerificationSet(name, pairs, np.array(unique, dtype=np.int64), places)


@contextmanager
def _evaluating(model: Model) -> Iterator[None]:
    """Put a module into evaluation mode for the block, and every part back as it was."""
    parts = list(model.modules()) if isinstance(model, nn.Module) else []
    modes = [part.training for part in parts]
    if isinstance(model, nn.Module):
        model.eval()
    try:
        yield
    finally:
        for part, mode in zip(parts, modes, strict=True):
            part.training = mode
