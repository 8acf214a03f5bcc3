"""The files that `torch.save` writes, zip archives and older ones, read one tensor at a time.

Everything that a file claims, such as the size of a tensor, is compared with the bytes that it
has before memory is allocated. What its pickle asks for is never called (`plain_pickle`).

Archives carry a CRC-32 of each tensor's bytes, which is checked here; older files carry none.
"""

import io
import math
import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, BinaryIO, Final, Protocol

import torch
from torch import Tensor

from backbones.plain_pickle import Call, WeightFileError, load_plain

_MAX_PICKLE: Final = 16 << 20  # bytes; a 200-layer network's takes 0.2 MB, without its numbers
_MAX_DIMENSIONS: Final = 8
_LEGACY_MAGIC: Final = 0x1950A86A20F9469CFC6C
_LEGACY_START: Final = _LEGACY_MAGIC.to_bytes(10, "little")
_DTYPES: Final = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
    "UntypedStorage": torch.uint8,
}


@dataclass(frozen=True)
class _Storage:
    """What a pickle says of the numbers of one or more tensors."""

    key: str
    dtype: torch.dtype
    count: int

    @property
    def nbytes(self) -> int:
        return self.count * self.dtype.itemsize


class _Source(Protocol):
    has_checksums: bool
    content: object  # what the pickle describes

    def read(self, storage: _Storage) -> bytearray:
        """Return the bytes of a storage; raises `WeightFileError` if there are not so many."""
        ...


class WeightFile:
    """An open weight file: plain values, and the tensors among them on request.

    `content` is what `load_plain` returns; `is_tensor` and `tensor` take an item of it. Without
    `has_checksums` damage to the numbers cannot be found.
    """

    def __init__(self, source: _Source) -> None:
        self.content, self.has_checksums = source.content, source.has_checksums
        self._source = source
        self._bytes: dict[str, Tensor] = {}  # of the storages read, as tensors may share one

    @staticmethod
    def is_tensor(item: object) -> bool:
        """Return whether an item of the content describes a tensor of any kind."""
        return isinstance(item, Call) and str(item.function).startswith("torch._utils._rebuild")

    @staticmethod
    def shape(item: object) -> tuple[int, ...]:
        """Return the shape that an item claims for its tensor, without a look at its numbers.

        Raises `WeightFileError` for another kind of tensor than a dense one.
        """
        match item:
            case Call("torch._utils._rebuild_parameter", (inner, *_)):
                return WeightFile.shape(inner)
            case Call(_, (_Storage(), int(_), tuple(size), *_)):
                return tuple(n for n in size if isinstance(n, int))
        raise WeightFileError("a tensor has no shape, expected a dense one")

    def tensor(self, item: object) -> Tensor:
        """Return the tensor that an item describes, on the CPU, as a view of its storage.

        Raises `WeightFileError` for another kind of tensor than a dense one, and for one that
        does not fit its storage.
        """
        match item:
            case Call("torch._utils._rebuild_parameter", (inner, *_)):
                item = inner
        match item:
            case Call(
                "torch._utils._rebuild_tensor" | "torch._utils._rebuild_tensor_v2",
                (_Storage() as storage, int(offset), tuple(size), tuple(stride), *_),
            ):
                _check_layout(storage.count, offset, size, stride)
            case _:
                kind = item.function if isinstance(item, Call) else type(item).__name__
                raise WeightFileError(f"a tensor is made by {str(kind)[:80]}, expected a dense one")
        if storage.key not in self._bytes:
            data = self._source.read(storage)
            self._bytes[storage.key] = (
                torch.frombuffer(data, dtype=torch.uint8)
                if data
                else torch.empty(0, dtype=torch.uint8)
            )
        return self._bytes[storage.key].view(storage.dtype).as_strided(size, stride, offset)


def _check_layout(
    count: int, offset: int, size: tuple[object, ...], stride: tuple[object, ...]
) -> None:
    """Raise `WeightFileError` unless a tensor has each of `count` numbers at most once."""
    sizes = [n for n in size if isinstance(n, int) and n >= 0]
    strides = [n for n in stride if isinstance(n, int) and n >= 0]
    if not len(sizes) == len(size) == len(stride) == len(strides) <= _MAX_DIMENSIONS:
        raise WeightFileError("the shape or the strides of a tensor are damaged")
    last = offset + sum((n - 1) * step for n, step in zip(sizes, strides, strict=True))
    numbers = math.prod(sizes)
    if numbers and not (0 <= offset <= last < count and numbers <= count):
        raise WeightFileError(
            f"a tensor of shape {sizes}, strides {strides} and offset {offset} does not fit its "
            f"storage of {count} numbers"
        )


def _parse_storage(reference: object) -> _Storage:
    """Return the storage that a persistent id names."""
    match reference:
        case ("storage", str(kind), str(key), _, int(count), *rest) if count >= 0 and not any(rest):
            dtype = _DTYPES.get(kind.rpartition(".")[2])
            if dtype is not None:
                return _Storage(key, dtype, count)
            raise WeightFileError(f"it has numbers of type {kind[:80]}")
    raise WeightFileError("its pickle describes a storage in an unknown way")


@contextmanager
def open_weight_file(path: Path) -> Iterator[WeightFile]:
    """Open a file of `torch.save`.

    Raises `WeightFileError` for another kind of file, and almost anything for a damaged one.
    """
    with path.open("rb") as file:
        start = file.read(64)
        file.seek(0)
        if start.startswith(b"PK\x03\x04"):
            with zipfile.ZipFile(file) as archive:
                yield WeightFile(_Archive(archive, path.stat().st_size))
        elif _LEGACY_START in start:
            yield WeightFile(_LegacyFile(file, path.stat().st_size))
        elif start[8:9] == b"{":
            raise WeightFileError(
                "it is a safetensors file; convert it with "
                "torch.save(safetensors.torch.load_file(PATH), NEW_PATH)"
            )
        else:
            raise WeightFileError(f"it begins with {start[:8]!r}" if start else "it is empty")


class _Archive:
    """A zip archive of `torch.save`: `data.pkl`, and `data/KEY` for each storage."""

    has_checksums = True

    def __init__(self, archive: zipfile.ZipFile, file_size: int) -> None:
        self._archive = archive
        entries = archive.infolist()
        for entry in entries:
            if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
                raise WeightFileError(
                    f"its entry {entry.filename[:80]!r} is compressed or encrypted, which "
                    "torch.save never does"
                )
        if sum(entry.file_size for entry in entries) > file_size:
            raise WeightFileError(f"its entries claim more than the {file_size} bytes of the file")
        pickles = [entry for entry in entries if entry.filename.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise WeightFileError(f"it is a zip archive with {len(pickles)} entries data.pkl")
        if pickles[0].file_size > _MAX_PICKLE:
            raise WeightFileError(f"its data.pkl has {pickles[0].file_size} bytes")
        self._root = pickles[0].filename.removesuffix("data.pkl")
        self._names = set(archive.namelist())
        if f"{self._root}constants.pkl" in self._names:
            raise WeightFileError("it is a TorchScript archive; save its state_dict() instead")
        order = f"{self._root}byteorder"
        if order in self._names and archive.read(order) != b"little":
            raise WeightFileError("its numbers are not little-endian")
        self.content = load_plain(io.BytesIO(archive.read(pickles[0])), _parse_storage)

    def read(self, storage: _Storage) -> bytearray:
        name = f"{self._root}data/{storage.key}"
        if name not in self._names:
            raise WeightFileError(f"storage {storage.key[:80]!r} is missing")
        entry = self._archive.getinfo(name)
        if entry.file_size != storage.nbytes:
            raise _wrong_size(storage, entry.file_size)
        with self._archive.open(entry) as stream:
            return _read(stream, storage)  # the last read checks the CRC-32


class _LegacyFile:
    """A file of torch before 1.6: five pickles, then each storage after its number of items."""

    has_checksums = False

    def __init__(self, file: BinaryIO, file_size: int) -> None:
        self._file = file
        self._storages: dict[str, _Storage] = {}
        head = io.BytesIO(file.read(_MAX_PICKLE))
        magic, _, system = (load_plain(head) for _ in range(3))
        if magic != _LEGACY_MAGIC or not isinstance(system, dict):
            raise WeightFileError("its first bytes are damaged")
        if system.get("little_endian") is not True:
            raise WeightFileError("its numbers are not little-endian")
        self.content = load_plain(head, self._load_storage)
        keys = load_plain(head)
        names = [key for key in keys if isinstance(key, str)] if isinstance(keys, list) else []
        if sorted(names) != sorted(self._storages):
            raise WeightFileError("its list of storages is damaged")
        position, self._starts = head.tell(), {}
        for key in names:
            self._starts[key] = position
            position += _LENGTH.size + self._storages[key].nbytes
        if position > file_size:
            raise WeightFileError(f"it has {file_size} bytes, and claims {position}")

    def _load_storage(self, reference: object) -> _Storage:
        storage = _parse_storage(reference)
        if self._storages.setdefault(storage.key, storage) != storage:
            raise WeightFileError(f"storage {storage.key[:80]!r} is described in two ways")
        return storage

    def read(self, storage: _Storage) -> bytearray:
        self._file.seek(self._starts[storage.key])
        (count,) = _LENGTH.unpack(self._file.read(_LENGTH.size))
        if count != storage.count:
            raise _wrong_size(storage, count * storage.dtype.itemsize)
        return _read(self._file, storage)


_LENGTH: Final = struct.Struct("<q")


def _read(stream: IO[bytes], storage: _Storage) -> bytearray:
    """Return the bytes of a storage, whose size was compared with that of the file."""
    data = bytearray(stream.read(storage.nbytes))
    if len(data) != storage.nbytes:
        raise _wrong_size(storage, len(data))
    return data


def _wrong_size(storage: _Storage, found: int) -> WeightFileError:
    return WeightFileError(
        f"storage {storage.key[:80]!r} has {found} bytes, expected {storage.nbytes}"
    )
