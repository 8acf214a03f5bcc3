"""Embeddings of made-up people, in memory."""

import numpy as np
from numpy.typing import NDArray

SIZE = 64


class People:
    """Embeddings around the centre of each image's person, with the interface of the files."""

    def __init__(self, person: NDArray[np.int64], noise: float = 0.7, seed: int = 0) -> None:
        random = np.random.default_rng(seed)
        centres = random.standard_normal((person.max() + 1, SIZE))
        found = centres[person] + noise * random.standard_normal((len(person), SIZE))
        self.unit = (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)
        self.hashes = random.integers(0, 2**63, len(person), dtype=np.uint64)
        self.good = np.ones(len(person), np.bool_)
        self.size = SIZE

    def __len__(self) -> int:
        return len(self.unit)

    def take(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        found: NDArray[np.float32] = self.unit[rows]
        return found
