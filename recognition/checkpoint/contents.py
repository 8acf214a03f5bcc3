"""The table of contents of `state/`, `.metadata`: a pickle, read without trusting it.

torch's reader unpickles it, which can run any code. Here only the classes of a checkpoint are
known.
"""

import io
import pickle
from typing import Any

import torch
from torch.distributed.checkpoint import filesystem
from torch.distributed.checkpoint import metadata as dcp


def read_contents(data: bytes) -> Any:
    """Return what was pickled; raises almost anything for what no save wrote."""
    return _SafeUnpickler(io.BytesIO(data)).load()


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
