"""The incumbent's way to load: a record, its image and its transforms at a time, in a DataLoader.

As its users run it: `MXIndexedRecordIO` reads a record, MXNet decodes it, and torchvision turns it
into a PIL image, flips and normalises it; `DataLoader` stacks a batch. Where MXNet is not
installed, a few lines of Python read the record and Pillow decodes it, which is no slower.
"""

import struct
from collections.abc import Iterator
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

Reader = Literal["mxnet", "python"]


def choose_reader(requested: Literal["auto"] | Reader) -> Reader:
    """Return what reads and decodes; raises `ValueError` for MXNet where it is not installed."""
    installed = find_spec("mxnet") is not None
    if requested == "mxnet" and not installed:
        raise ValueError(
            "--incumbent mxnet: MXNet is not installed; make an environment of its own for it "
            "on Python 3.11: pip install -e '.[mxnet]'"
        )
    if requested == "auto":
        return "mxnet" if installed else "python"
    return requested


def usual_loader(
    path: Path, keys: Iterator[int], *, reader: Reader, batch_size: int, workers: int
) -> DataLoader[tuple[Tensor, Tensor]]:
    """Return the loader of `path`, a `.rec` with its `.idx`, over an endless stream of keys.

    A batch is float32 [b, 3, S, S] in -1 … 1 and float32 [b] labels.
    """
    records = MxnetRecords(path) if reader == "mxnet" else PythonRecords(path)
    return DataLoader(
        _Usual(records),
        batch_size=batch_size,
        sampler=_Keys(keys),
        num_workers=workers,
        generator=torch.Generator(),
    )


class MxnetRecords:
    """Label and image of a key, by MXNet."""

    def __init__(self, path: Path) -> None:
        import mxnet

        self._mxnet = mxnet
        self._records = mxnet.recordio.MXIndexedRecordIO(
            str(path.with_suffix(".idx")), str(path), "r"
        )
        self._to_pil = transforms.ToPILImage()

    def read(self, key: int) -> tuple[float, Image.Image]:
        """Return the label and the decoded image."""
        header, encoded = self._mxnet.recordio.unpack(self._records.read_idx(key))
        pixels = self._mxnet.image.imdecode(encoded).asnumpy()
        return _first(header.label), self._to_pil(pixels)


class PythonRecords:
    """Label and image of a key, by a plain reader of whole records and Pillow."""

    def __init__(self, path: Path) -> None:
        self._path = path
        lines = path.with_suffix(".idx").read_text(encoding="ascii").splitlines()
        self._offsets = {int(key): int(offset) for key, offset in (line.split() for line in lines)}
        self._file: Any = None  # opened where it is read: workers must not share a position

    def read(self, key: int) -> tuple[float, Image.Image]:
        """Return the label and the decoded image."""
        if self._file is None:
            self._file = self._path.open("rb")
        self._file.seek(self._offsets[key])
        _, length = struct.unpack("<II", self._file.read(8))
        payload = self._file.read(length & ((1 << 29) - 1))
        flag, label = struct.unpack_from("<If", payload)
        if flag:
            (label,) = struct.unpack_from("<f", payload, 24)
        return label, Image.open(BytesIO(payload[24 + 4 * flag :])).convert("RGB")


class _Usual(Dataset[tuple[Tensor, Tensor]]):
    def __init__(self, records: MxnetRecords | PythonRecords) -> None:
        self._records = records
        self._transform = transforms.Compose(
            [
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(mean=[0.5, 0.5, 0.5], std=[0.5, 0.5, 0.5]),
            ]
        )

    def __getitem__(self, key: int) -> tuple[Tensor, Tensor]:
        label, image = self._records.read(key)
        return self._transform(image), torch.tensor(label)


class _Keys:
    """An endless stream of keys as what `DataLoader` calls a sampler."""

    def __init__(self, keys: Iterator[int]) -> None:
        self._keys = keys

    def __iter__(self) -> Iterator[int]:
        return self._keys


def _first(label: Any) -> float:
    return float(label) if isinstance(label, float) else float(label[0])
