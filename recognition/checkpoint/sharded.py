"""The files of `state/`: torch.distributed.checkpoint, with hashes, and trusting nothing it reads.

torch's reader unpickles `.metadata`, which can run any code, and follows the paths in it. Here only
the classes of a checkpoint are known, and only files that `run.json` lists are opened.
"""

import io
import os
import pickle
import zipfile
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

import torch
from torch.distributed.checkpoint import filesystem
from torch.distributed.checkpoint import metadata as dcp
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner
from torch.distributed.checkpoint.storage import WriteResult
from torch.futures import Future

from recognition.checkpoint.manifest import (
    CheckpointError,
    FileDigest,
    digesting,
    open_regular,
)


def _memory_format(_: object, name: str) -> dcp._MEM_FORMAT_ENCODING:
    """Return a member of the one enum; some versions of Python 3.11 pickle it as a `getattr`.

    Whatever a file asks for an attribute of, it gets one of these or an error.
    """
    return dcp._MEM_FORMAT_ENCODING[name]


_CLASSES = {
    **{
        (kind.__module__, kind.__qualname__): kind
        for kind in (
            dcp.Metadata, dcp.MetadataIndex, dcp.TensorStorageMetadata, dcp.TensorProperties,
            dcp.ChunkStorageMetadata, dcp.StorageMeta, dcp._MEM_FORMAT_ENCODING,
            filesystem._StorageInfo, torch.Size,
        )
    },
    ("torch.serialization", "_get_layout"): torch.serialization._get_layout,
    ("builtins", "getattr"): _memory_format,
}  # fmt: skip


class Writer(filesystem.FileSystemWriter):
    """Writes this rank's file of `state/`, and on rank 0 its table of contents."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, sync_files=False)  # closing a `DigestingFile` waits for the disk
        self._files = _DigestingFiles()
        self.fs = self._files

    @property
    def digests(self) -> dict[str, FileDigest]:
        """The files that this rank wrote, by name within the checkpoint."""
        return {f"state/{name}": digest for name, digest in self._files.digests.items()}

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """Write the tensors of this rank; an error of the disk is raised as that."""
        try:
            return super().write_data(plan, planner)
        except Exception:
            if self._files.error is not None:
                raise self._files.error from None
            raise

    def storage_meta(self) -> dcp.StorageMeta:
        """Return no path: a checkpoint does not say in which folder it was written."""
        return dcp.StorageMeta(save_id=self.save_id)


class Reader(filesystem.FileSystemReader):
    """Reads `state/`; raises `CheckpointError` for a table of contents that no save wrote."""

    def __init__(self, folder: Path, files: Mapping[str, FileDigest]) -> None:
        super().__init__(folder)
        self.fs = _DigestingFiles()
        self._listed = {name: digest.bytes for name, digest in files.items()}

    def read_metadata(self, *args: Any, **kwargs: Any) -> dcp.Metadata:
        """Return the table of contents, checked."""
        file = Path(self.path) / ".metadata"
        try:
            with open_regular(file) as stream:
                metadata = _SafeUnpickler(io.BytesIO(stream.read())).load()
            self._check(metadata)
        except Exception as error:  # a damaged pickle can raise almost anything
            raise CheckpointError(f"{file}: is not one that a save wrote: {error!r:.300}") from None
        metadata.storage_meta.load_id = self.load_id
        return cast(dcp.Metadata, metadata)

    def _slice_file(self, file: Any, sinfo: filesystem._StorageInfo) -> IO[bytes]:
        """Return the part of a file that holds one tensor, unless it asks for more memory."""
        view = io.BufferedReader(_Part(file, sinfo.offset, sinfo.length))
        with zipfile.ZipFile(view) as archive:
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                raise CheckpointError(f"{sinfo.relative_path}: compressed, which no save writes")
        view.seek(0)
        return view

    def _check(self, metadata: Any) -> None:
        if type(metadata) is not dcp.Metadata or type(metadata.storage_meta) is not dcp.StorageMeta:
            raise ValueError(f"found {type(metadata).__name__}")
        for index, info in metadata.storage_data.items():
            name = f"state/{info.relative_path}"
            if name not in self._listed:
                raise ValueError(f"{index.fqn} lies in {info.relative_path!r}, not in the folder")
            first, last = int(info.offset), int(info.offset) + int(info.length)
            if not 0 <= first <= last <= self._listed[name] or info.transform_descriptors:
                raise ValueError(f"{index.fqn} lies outside {info.relative_path!r}")


class _Part(io.RawIOBase):
    """Bytes `[start, start + length)` of a file."""

    def __init__(self, file: IO[bytes], start: int, length: int) -> None:
        self._file, self._start, self._length = file, start, length
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._position = offset + (0, self._position, self._length)[whence]
        return self._position

    def readinto(self, buffer: Any) -> int:
        count = max(0, min(len(buffer), self._length - self._position))
        self._file.seek(self._start + self._position)
        data = self._file.read(count)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


class _DigestingFiles(filesystem.FileSystem):
    """Files as torch writes them, with their digests."""

    def __init__(self) -> None:
        self.digests: dict[str, FileDigest] = {}
        self.error: OSError | None = None

    @contextmanager
    def create_stream(
        self, path: str | os.PathLike[str], mode: str
    ) -> Generator[io.IOBase, None, None]:
        """Open a file; one for writing must be new."""
        if mode != "wb":
            with open_regular(Path(path)) as stream:
                yield cast(io.IOBase, stream)
            return
        try:
            with digesting(Path(path)) as file:
                yield cast(io.IOBase, file)
        except OSError as error:
            self.error = error
            raise
        self.digests[Path(path).name] = file.digest()

    def rename(self, path: str | os.PathLike[str], new_path: str | os.PathLike[str]) -> None:
        """Rename a file, with its digest."""
        super().rename(path, new_path)
        self.digests[Path(new_path).name] = self.digests.pop(Path(path).name)


class _SafeUnpickler(pickle._Unpickler):
    """Knows the classes of a table of contents and nothing else.

    It is Python's own, not the one in C, in which five bytes can ask for 64 GiB of memory.
    """

    def find_class(self, module: str, name: str) -> Any:
        """Return a class of the list, or a dtype."""
        dtype = getattr(torch, name, None) if module == "torch" else None
        if isinstance(dtype, torch.dtype):
            return dtype
        try:
            return _CLASSES[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it names {module}.{name}") from None
