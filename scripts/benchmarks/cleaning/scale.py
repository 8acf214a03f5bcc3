"""Time and memory of an examination, of made-up embeddings, and of the same search by faiss."""

import time
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch

from data.cleaning.embeddings import EmbeddingFiles, row_type
from data.cleaning.examine import Examination, Settings
from data.cleaning.search import nearest_other
from scripts.benchmarks.common.memory import PeakMemory

PART = 4096


def measure_scale(folder: Path, images: int, identities: int, size: int) -> dict[str, Any]:
    """Return seconds by stage and the peak memory; runs in a process of its own."""
    labels = np.sort(np.arange(images) % identities)
    files = make_embeddings(folder, labels, identities, size)
    memory = PeakMemory(torch.device("cpu"))
    times: list[tuple[str, float]] = []
    begin = time.perf_counter()
    vectors = EmbeddingFiles(files)
    examination = Examination(
        vectors, labels, identities, torch.device("cpu"), Settings(),
        lambda name: times.append((name, time.perf_counter())),
    )  # fmt: skip
    examination.run()
    end = time.perf_counter()
    ends = [moment for _, moment in times[1:]] + [end]
    stages = {name: stop - start for (name, start), stop in zip(times, ends, strict=True)}
    peak = memory.beyond()
    some = vectors.take(np.arange(0, images, max(1, images // 20_000)))
    return {
        "images": images,
        "identities": identities,
        "size": size,
        "seconds": end - begin,
        "stages": stages,
        "peak_bytes": peak,
        "search": _compare(some, identities),
    }


def make_embeddings(folder: Path, labels: Any, identities: int, size: int) -> list[Path]:
    """Write embeddings around random centres, with cosines of about 0.65 to their own."""
    random = np.random.default_rng(0)
    centres = random.standard_normal((identities, size), np.float32)
    files = []
    for start in range(0, len(labels), PART):
        part = labels[start : start + PART]
        rows = np.zeros(len(part), row_type(size))
        noise = random.standard_normal((len(part), size), np.float32)
        unit = centres[part] + np.float32(1.1) * noise
        rows["embedding"] = unit / np.linalg.norm(unit, axis=1, keepdims=True)
        rows["hash"] = random.integers(0, 2**63, len(part), dtype=np.uint64)
        rows["good"] = True
        file = folder / f"{start:012d}.npy"
        np.save(file, rows)
        files.append(file)
    return files


def _compare(queries: Any, identities: int) -> dict[str, float]:
    """Return the seconds of one search by this project's blocks and by faiss, in turn."""
    random = np.random.default_rng(1)
    centres = random.standard_normal((identities, queries.shape[1]), np.float32)
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    none = np.full(2048, -1, np.int64)
    parts = [queries[i : i + 2048] for i in range(0, len(queries), 2048)]
    best = {"blocks": np.inf, "faiss": np.inf}
    for _ in range(3):
        start = time.perf_counter()
        mine, _numbers = nearest_other(
            ((part, none[: len(part)]) for part in parts), centres, torch.device("cpu")
        )
        best["blocks"] = min(best["blocks"], time.perf_counter() - start)
        start = time.perf_counter()
        theirs, _numbers = faiss.knn(queries, centres, 1, metric=faiss.METRIC_INNER_PRODUCT)
        best["faiss"] = min(best["faiss"], time.perf_counter() - start)
        np.testing.assert_allclose(mine, theirs, atol=1e-5)
    return {name: float(seconds) for name, seconds in best.items()} | {"queries": len(queries)}
