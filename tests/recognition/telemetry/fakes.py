"""A result of a verification set with pairs and faces, as `eval/` makes them."""

import io
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image


@dataclass(frozen=True)
class FakeScores:
    cosine: NDArray[np.float64]
    same: NDArray[np.bool_]
    threshold: float = 0.25


@dataclass(frozen=True)
class FakeFaces:
    images: list[bytes]
    embeddings: NDArray[np.float32]
    people: list[int]


def fake_scores(pairs: int = 200) -> FakeScores:
    random = np.random.default_rng(0)
    same = np.arange(pairs) % 2 == 0
    return FakeScores(random.normal(np.where(same, 0.5, 0.0), 0.15), same)


def fake_faces(count: int = 6, size: int = 4) -> FakeFaces:
    images = []
    for number in range(count):
        stream = io.BytesIO()
        Image.new("RGB", (112, 112), (40 * number, 0, 255)).save(stream, "JPEG")
        images.append(stream.getvalue())
    embeddings = np.random.default_rng(1).normal(size=(count, size)).astype(np.float32)
    return FakeFaces(images, embeddings, [number // 2 for number in range(count)])


@dataclass(frozen=True)
class FakeResult:
    name: str = "lfw"
    accuracy: float = 0.9375
    scores: FakeScores | None = field(default_factory=fake_scores)
    faces: FakeFaces | None = field(default_factory=fake_faces)

    def to_json(self) -> dict[str, Any]:
        rates = {"1e-2": 0.75, "1e-3": 0.5}
        return {"set": self.name, "accuracy": self.accuracy, "tar_at_far": rates}

    def summary(self) -> str:
        return f"{self.name} {self.accuracy}"
