"""The incumbent's way to load: record by record, with transforms per image, in a DataLoader.

As its users run it: `MXIndexedRecordIO` reads a record, MXNet decodes it, and torchvision turns it
into a PIL image, flips and normalises it; `DataLoader` stacks a batch. Where MXNet is not
installed, a few lines of Python read the record and Pillow decodes it, which is not slower.
"""

import struct
from abc import ABC, abstractmethod
from collections.abc import Iterator
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

Reader = Literal["mxnet", "python"]


def choose_reader(requested: Literal["auto"] | Reader) -> Reader:
    """Return the library that reads and decodes.

    Raises `ValueError` for MXNet where it is not installed, and without torchvision.
    """
    if find_spec("torchvision") is None:
        raise ValueError(
            "the incumbent's loader needs torchvision, which is not installed: "
            "pip install -e '.[benchmarks]'"
        )
    installed = find_spec("mxnet") is not None
    if requested == "mxnet" and not installed:
        raise ValueError(
            "--incumbent mxnet: MXNet is not installed; install it in a separate environment with "
            "Python 3.11: pip install -e '.[mxnet,benchmarks]'"
        )
    if requested == "auto":
        return "mxnet" if installed else "python"
    return requested


def incumbent_loader(
    path: Path, keys: Iterator[int], *, reader: Reader, batch_size: int, workers: int
) -> DataLoader[tuple[Tensor, Tensor]]:
    """Return a loader of `path`, a `.rec` with an `.idx`, over an endless stream of keys.

    A batch is float32 [b, 3, S, S] in [-1, 1] and float32 [b] labels.
    """
    return DataLoader(
        MxnetImages(path) if reader == "mxnet" else PythonImages(path),
        batch_size=batch_size,
        sampler=keys,
        num_workers=workers,
        generator=torch.Generator(),
    )


class _Images(Dataset[tuple[Tensor, Tensor]], ABC):
    """Image and label by key."""

    def __init__(self) -> None:
        from torchvision import transforms

        normalize = transforms.Normalize(mean=[0.5, 0.5, 0.5], std=[0.5, 0.5, 0.5])
        self._transform = transforms.Compose(
            [transforms.RandomHorizontalFlip(), transforms.ToTensor(), normalize]
        )

    def __getitem__(self, key: int) -> tuple[Tensor, Tensor]:
        label, image = self.read(key)
        return self._transform(image), torch.tensor(label)

    @abstractmethod
    def read(self, key: int) -> tuple[float, Image.Image]:
        """Return the label and the decoded image."""


class MxnetImages(_Images):
    """Read and decoded by MXNet."""

    def __init__(self, path: Path) -> None:
        import mxnet
        from torchvision.transforms import ToPILImage

        super().__init__()
        self._mxnet = mxnet
        self._records = mxnet.recordio.MXIndexedRecordIO(
            str(path.with_suffix(".idx")), str(path), "r"
        )
        self._to_pil = ToPILImage()

    def read(self, key: int) -> tuple[float, Image.Image]:
        """See `_Images`."""
        header, encoded = self._mxnet.recordio.unpack(self._records.read_idx(key))
        pixels = self._mxnet.image.imdecode(encoded).asnumpy()
        return float(np.ravel(header.label)[0]), self._to_pil(pixels)


class PythonImages(_Images):
    """Read by plain Python, and decoded by Pillow."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        lines = path.with_suffix(".idx").read_text(encoding="ascii").splitlines()
        self._offsets = {int(key): int(offset) for key, offset in (line.split() for line in lines)}
        self._file: Any = None  # opened by each worker: they must not share a file position

    def read(self, key: int) -> tuple[float, Image.Image]:
        """See `_Images`."""
        if self._file is None:
            self._file = self._path.open("rb")
        self._file.seek(self._offsets[key])
        _, length = struct.unpack("<II", self._file.read(8))
        payload = self._file.read(length & ((1 << 29) - 1))
        flag, label = struct.unpack_from("<If", payload)
        if flag:
            (label,) = struct.unpack_from("<f", payload, 24)
        return label, Image.open(BytesIO(payload[24 + 4 * flag :])).convert("RGB")
