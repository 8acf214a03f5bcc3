"""The files of `state/`: torch.distributed.checkpoint, with hashes, and trusting nothing it reads.

torch's reader follows the paths in `.metadata`. Here only files that `run.json` lists are opened.
"""

import dataclasses
import math
import os
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from io import IOBase
from pathlib import Path
from typing import IO, Any, TypeVar, cast

import torch
from torch import Tensor
from torch.distributed.checkpoint import filesystem
from torch.distributed.checkpoint import metadata as dcp
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.planner import (
    LoadPlan,
    LoadPlanner,
    ReadItem,
    SavePlan,
    SavePlanner,
    WriteItem,
)
from torch.distributed.checkpoint.storage import WriteResult
from torch.futures import Future

from recognition.checkpoint.archive import find_data, view
from recognition.checkpoint.contents import read_contents
from recognition.checkpoint.manifest import (
    CheckpointError,
    FileDigest,
    digesting,
    open_regular,
)
from recognition.checkpoint.rows import ShardedRows

Result = TypeVar("Result")

# Each copies a chunk of rows at a time, hashes it and writes it to a file of its own, or reads one:
# on one core these would take longer than a fast disk.
THREADS = 4


class Writer(filesystem.FileSystemWriter):
    """Writes this rank's files of `state/`, and on rank 0 its table of contents.

    Threads write up to `THREADS` files, each a tensor or a chunk of rows at a time: torch's own
    threads would keep two chunks and drop an error.
    """

    def __init__(self, folder: Path, rows: Mapping[str, ShardedRows]) -> None:
        super().__init__(folder, sync_files=False)  # closing a `DigestingFile` waits for the disk
        self._files = _DigestingFiles()
        self.fs = self._files
        self._rows = rows

    @property
    def digests(self) -> dict[str, FileDigest]:
        """The files that this rank wrote, by name within the checkpoint."""
        return {f"state/{name}": digest for name, digest in self._files.digests.items()}

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """Write the tensors of this rank; an error of the disk is raised as that."""
        prefix = cast(filesystem._StoragePrefix, plan.storage_data).prefix
        results = _in_threads(
            lambda number, items: self._write(f"{prefix}{number}.distcp", items, planner),
            enumerate(_spread(plan.items)),
        )
        done: Future[list[WriteResult]] = Future()
        done.set_result([result for of_file in results for result in of_file])
        return done

    def storage_meta(self) -> dcp.StorageMeta:
        """Return no path: a checkpoint does not say in which folder it was written."""
        return dcp.StorageMeta(save_id=self.save_id)

    def _write(
        self, name: str, items: Sequence[WriteItem], planner: SavePlanner
    ) -> list[WriteResult]:
        """Write one file; runs on a thread."""
        results = []
        with self._files.create_stream(Path(self.path) / name, "wb") as file:
            for item in items:
                first = file.tell()
                torch.save(self._data(item, planner), cast(IO[bytes], file))
                length = file.tell() - first
                stored = filesystem._StorageInfo(name, first, length)
                results.append(WriteResult(item.index, length, stored))
        return results

    def _data(self, item: WriteItem, planner: SavePlanner) -> Tensor:
        rows = self._rows.get(item.index.fqn)
        data = cast(Tensor, planner.resolve_data(item)) if rows is None else rows.read(item)
        data = data.detach().cpu()
        # Of a view, torch would save all that it is a view of.
        return data if data.untyped_storage().nbytes() == data.nbytes else data.clone()


class Planner(DefaultLoadPlanner):
    """Plans a load; torch's own would put None for what is not a tensor."""

    def __init__(self) -> None:
        super().__init__(flatten_state_dict=False)

    def set_up_planner(
        self,
        state_dict: dict[str, Any],
        metadata: dcp.Metadata | None = None,
        is_coordinator: bool = False,
    ) -> None:
        """Take what is to be loaded, as it is."""
        self.state_dict, self.metadata = state_dict, metadata
        self.is_coordinator = is_coordinator


class Reader(filesystem.FileSystemReader):
    """Reads `state/`; raises `CheckpointError` for a table of contents that no save wrote.

    Threads read rows, a chunk at a time, whatever the chunks are in which they were saved.
    """

    def __init__(
        self, folder: Path, files: Mapping[str, FileDigest], rows: Mapping[str, ShardedRows]
    ) -> None:
        super().__init__(folder)
        self.fs = _DigestingFiles()
        self._listed = {name: digest.bytes for name, digest in files.items()}
        self._rows = rows
        self._contents: dict[str, Any] = {}  # of the table of contents, by the tensor's name

    def read_metadata(self, *args: Any, **kwargs: Any) -> dcp.Metadata:
        """Return the table of contents, checked."""
        file = Path(self.path) / ".metadata"
        try:
            with open_regular(file) as stream:
                metadata = read_contents(stream.read())
            self._check(metadata)
        except Exception as error:  # a damaged pickle can raise almost anything
            raise CheckpointError(f"{file}: is not one that a save wrote: {error!r:.300}") from None
        metadata.storage_meta.load_id = self.load_id
        self._contents = metadata.state_dict_metadata
        return cast(dcp.Metadata, metadata)

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        """Fill this rank's tensors and rows."""
        others = [item for item in plan.items if item.dest_index.fqn not in self._rows]
        done = super().read_data(dataclasses.replace(plan, items=others), planner)
        rows = [item for item in plan.items if item.dest_index.fqn in self._rows]
        _in_threads(_Part.read, ((part,) for item in rows for part in self._parts(item)))
        return done

    def _parts(self, item: ReadItem) -> Iterator["_Part"]:
        """Yield the parts of what was saved as one that this rank needs."""
        name, stored = item.dest_index.fqn, self.storage_data[item.storage_index]
        rows, content = self._rows[name], self._contents[name]
        saved = content.chunks[item.storage_index.index]
        row_bytes = math.prod(saved.sizes[1:]) * content.properties.dtype.itemsize
        file = Path(self.path) / stored.relative_path
        with open_regular(file) as stream:
            start, size = find_data(view(stream, stored.offset, stored.length), file.name)
        if saved.sizes[1:] != rows.local.shape[1:] or size != saved.sizes[0] * row_bytes:
            raise CheckpointError(
                f"{file.name}: {name}: {size:,} bytes found for {tuple(saved.sizes)} numbers, "
                f"expected rows of {tuple(rows.local.shape[1:])} with {row_bytes:,} bytes each"
            )
        skipped = item.storage_offsets[0] - item.dest_offsets[0]
        wanted = item.dest_offsets[0], item.dest_offsets[0] + item.lengths[0]
        for first, last in rows.chunks(*wanted):
            offset = stored.offset + start + (first + skipped) * row_bytes
            yield _Part(file, offset, content.properties.dtype, rows, first, last)

    def _slice_file(self, file: Any, sinfo: filesystem._StorageInfo) -> IO[bytes]:
        """Return the part of a file that holds one tensor, unless it asks for more memory."""
        part = view(file, sinfo.offset, sinfo.length)
        find_data(part, sinfo.relative_path)
        part.seek(0)
        return part

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


@dataclass(frozen=True)
class _Part:
    """Rows `[first, last)` of this rank, and where they are in a file."""

    file: Path
    offset: int  # of the first byte
    dtype: torch.dtype
    rows: ShardedRows
    first: int
    last: int

    def read(self) -> None:
        """Copy them from the file; runs on a thread."""
        local = self.rows.local
        part = torch.empty(self.last - self.first, *local.shape[1:], dtype=self.dtype)
        memory = memoryview(part.view(-1).view(torch.uint8).numpy().data)
        with open_regular(self.file) as stream:
            stream.seek(self.offset)
            if stream.readinto(memory) != len(memory):  # type: ignore[attr-defined]
                raise CheckpointError(f"{self.file.name}: ends before byte {self.offset:,}")
        local.write(self.first, part.to(local.dtype))


def _spread(items: Sequence[WriteItem]) -> list[list[WriteItem]]:
    """Return the items of each file: several files of the same size once a tensor is in chunks."""
    chunks = Counter(item.index.fqn for item in items)
    files: list[list[WriteItem]] = [
        [] for _ in range(min(THREADS, max(chunks.values(), default=0)))
    ]
    sizes = [0] * len(files)
    for item in sorted(items, key=_bytes, reverse=True):
        smallest = sizes.index(min(sizes))
        files[smallest].append(item)
        sizes[smallest] += _bytes(item)
    return files


def _bytes(item: WriteItem) -> int:
    return item.tensor_storage_size() or 0


def _in_threads(
    function: Callable[..., Result], arguments: Iterable[tuple[Any, ...]]
) -> list[Result]:
    """Call a function with each of the arguments; raise what the first call to fail raised."""
    pool = ThreadPoolExecutor(THREADS, thread_name_prefix="checkpoint")
    try:
        return [call.result() for call in [pool.submit(function, *each) for each in arguments]]
    finally:
        pool.shutdown(cancel_futures=True)


class _DigestingFiles(filesystem.FileSystem):
    """Files as torch writes them, with their digests."""

    def __init__(self) -> None:
        self.digests: dict[str, FileDigest] = {}

    @contextmanager
    def create_stream(
        self, path: str | os.PathLike[str], mode: str
    ) -> Generator[IOBase, None, None]:
        """Open a file; one for writing must be new."""
        if mode != "wb":
            with open_regular(Path(path)) as stream:
                yield cast(IOBase, stream)
            return
        with digesting(Path(path)) as file:
            yield cast(IOBase, file)
        self.digests[Path(path).name] = file.digest()

    def rename(self, path: str | os.PathLike[str], new_path: str | os.PathLike[str]) -> None:
        """Rename a file, with its digest."""
        super().rename(path, new_path)
        self.digests[Path(new_path).name] = self.digests.pop(Path(path).name)
