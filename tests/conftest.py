"""Fixtures that several folders share."""

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
import torch
from hypothesis import HealthCheck, settings

# Triton reads this variable when it is first imported, which torchvision does; so it is set before
# any import of this project. Without a GPU, kernels then run in Triton's interpreter.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

from data.pairs.bin_file import write_pair_file
from data.records.format import HEADER, PART
from data.records.writer import write_face_records

# Processes that test side by side share the cores; more threads than cores wait for each other.
_side_by_side = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
torch.set_num_threads(max(1, torch.get_num_threads() // _side_by_side))

# The same examples in every run; `--hypothesis-profile=fuzz` searches for new ones.
_slow = settings(deadline=None, suppress_health_check=list(HealthCheck))
settings.register_profile("fixed", _slow, max_examples=200, derandomize=True, database=None)
settings.register_profile("fuzz", _slow, max_examples=20_000)
settings.load_profile("fixed")

TINY = Path(__file__).parent / "fixtures" / "tiny.yaml"


def picture(identity: int, number: int, size: int = 32) -> bytes:
    """Return a JPEG: a pattern per identity with noise per image."""
    low = np.random.default_rng([identity, 7]).uniform(30, 220, (4, 4, 3))
    image = low.repeat(size // 4, 0).repeat(size // 4, 1)
    image += np.random.default_rng([identity, number]).normal(0, 12, image.shape)
    pixels = image.clip(0, 255).astype(np.uint8)
    return bytes(simplejpeg.encode_jpeg(pixels, quality=95))


def corrupt(folder: Path, keys: list[int]) -> list[str]:
    """Corrupt the images of `keys` in `folder/train.rec`; return the key and offset of each."""
    lines = (folder / "train.idx").read_text().splitlines()
    offsets = {int(key): int(offset) for key, offset in (line.split("\t") for line in lines)}
    with (folder / "train.rec").open("r+b") as file:
        for key in keys:
            file.seek(offsets[key] + PART.size + HEADER.size)
            file.write(bytes(200))
    return [f"key {key}, offset {offsets[key]}" for key in keys]


@contextmanager
def file_limit(size: int) -> Iterator[None]:
    """Let every file of this process be full at `size` bytes, as if the disk were."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture(scope="session")
def session_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder that all processes of this session share."""
    folder = tmp_path_factory.getbasetemp()
    return folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with 13 identities of 7 images, 32x32, and the set `pairs.bin`. Read only."""
    folder = tmp_path_factory.mktemp("tiny_data")
    faces = ((identity, picture(identity, number)) for identity in range(13) for number in range(7))
    write_face_records(folder, faces, image_size=32)
    pairs, same = [], []
    for pair in range(40):
        other = pair if pair % 2 == 0 else pair + 100
        pairs += [picture(500 + pair, 0), picture(500 + other, 1)]
        same.append(pair % 2 == 0)
    write_pair_file(folder / "pairs.bin", pairs, np.array(same))
    return folder


@pytest.fixture
def tiny_config(tiny_data: Path, tmp_path: Path) -> Path:
    """Return a config that trains `rtiny` on the tiny data into `tmp_path/run`: 40 steps."""
    path = tmp_path / "tiny.yaml"
    path.write_text(
        f"""
base: {TINY}
output: {tmp_path / "run"}
seed: 5
data: {{train: {tiny_data}, workers: 1}}
optimizer: {{lr: 0.05}}
train: {{global_batch_size: 21, steps: 40, timeout_seconds: 60}}
verification: {{every_steps: 20}}
checkpoint: {{every_steps: 10, keep: 9}}
log: {{every_steps: 1}}
"""
    )
    return path
