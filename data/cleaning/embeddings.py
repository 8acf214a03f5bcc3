"""Embeddings of a dataset in files: read a few rows at a time, however many there are.

Shape legend: n images, m rows that are read, d embedding size.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Int64s = NDArray[np.int64]

MAPPED: Final = 256  # files
CHUNK: Final = 2048  # rows that are in memory at a time, where all are read


def row_type(size: int) -> np.dtype[Any]:
    """Return the type of a row: an embedding of `size` numbers, its image's hash, is it good.

    Half precision moves a cosine by less than 0.001, and 17 million rows of 512 take 18 GB.
    """
    return np.dtype([("embedding", "<f2", (size,)), ("hash", "<u8"), ("good", "?")])


class Vectors(Protocol):
    """n embeddings of length 1, wherever they are."""

    def __len__(self) -> int: ...

    def take(self, rows: Int64s) -> Floats:
        """Return the embeddings at `rows`, float32 [m, d]."""


class ImageEmbeddings(Vectors, Protocol):
    """The embeddings of n images, with a hash of what each looks like."""

    size: int  # d
    hashes: NDArray[np.uint64]  # [n]
    good: NDArray[np.bool_]  # [n]; others have an embedding of zeros


class EmbeddingFiles:
    """The rows of files, one after the other; raises `OSError` and `ValueError` as `numpy.load`.

    Files are mapped: what has been read stays in the system's cache and may leave it.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = files
        # Each mapping holds a file open, and a process may have 1,024 of them.
        self._part = lru_cache(MAPPED)(partial(np.load, mmap_mode="r"))
        hashes, good = [], []
        for file in files:
            rows = self._part(file)
            hashes.append(rows["hash"].copy())
            good.append(rows["good"].copy())
        self._starts = np.cumsum([0, *map(len, good)])
        self.size = int(self._part(files[0])["embedding"].shape[1])
        self.hashes = np.concatenate(hashes)  # [n]
        self.good = np.concatenate(good)  # [n]

    def __len__(self) -> int:
        return int(self._starts[-1])

    def take(self, rows: Int64s) -> Floats:
        """Return the embeddings at `rows`, float32 [m, d]."""
        found = np.empty((len(rows), self.size), np.float32)
        owners = np.searchsorted(self._starts, rows, side="right") - 1
        for number in np.unique(owners).tolist():
            mine = np.flatnonzero(owners == number)
            part = self._part(self._files[number])
            found[mine] = part["embedding"][rows[mine] - self._starts[number]]
        norms = np.linalg.norm(found, axis=1, keepdims=True)
        unit: Floats = found / np.maximum(norms, np.finfo(np.float32).tiny)
        return unit


class Whitened:
    """The embeddings of `vectors` times a matrix [d, d], of length 1 again."""

    def __init__(self, vectors: Vectors, matrix_dd: Floats) -> None:
        self._vectors, self._matrix = vectors, matrix_dd

    def __len__(self) -> int:
        return len(self._vectors)

    def take(self, rows: Int64s) -> Floats:
        """Return the embeddings at `rows`, float32 [m, d]."""
        return self.apply(self._vectors.take(rows))

    def apply(self, unit_md: Floats) -> Floats:
        """Return other embeddings in the same space, float32 [m, d]."""
        found = unit_md @ self._matrix
        norms = np.linalg.norm(found, axis=1, keepdims=True)
        unit: Floats = found / np.maximum(norms, np.finfo(np.float32).tiny)
        return unit


def chunks(vectors: Vectors, rows: Int64s, own: Int64s) -> Iterator[tuple[Floats, Int64s]]:
    """Yield the embeddings at `rows` with `own`, int64 [m] both, a chunk at a time."""
    for start in range(0, len(rows), CHUNK):
        part = slice(start, start + CHUNK)
        yield vectors.take(rows[part]), own[part]
