"""What it takes to open a dataset as large as Glint360K: seconds, and memory of rank and worker.

Shape legend: n images, c identities.
"""

import multiprocessing
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from data.datasets.dataset import ImageDataset, open_dataset
from data.records.format import MAGIC, pack_record

Result = TypeVar("Result")

GLINT360K_IMAGES = 17_091_657
_IMAGES_PER_IDENTITY = 47  # 360k identities of 17 million images
_IMAGE_BYTES = 8
_AT_ONCE = 1 << 20
_MIB = 1 << 20

_RECORD = np.dtype(
    [
        ("magic", "<u4"), ("size", "<u4"), ("flag", "<u4"), ("label", "<f4"), ("id", "<u8"),
        ("id2", "<u8"), ("image", f"V{_IMAGE_BYTES}"),
    ]
)  # fmt: skip
_RANGE = np.dtype(
    [
        ("magic", "<u4"), ("size", "<u4"), ("flag", "<u4"), ("label", "<f4"), ("id", "<u8"),
        ("id2", "<u8"), ("labels", "<f4", 2),
    ]
)  # fmt: skip


def measure_index(entries: int, folder: Path) -> dict[str, float]:
    """Write a dataset of `entries` tiny images into `folder`, open it, and take both away again.

    It has the layout of the public datasets: a header record, keys 1 … n, and a record with the
    range of keys of each identity. Each kind of opening has a fresh process. Needs Linux, which
    says how much of a process's memory is its own, and 80 bytes of disk an image.

    Returns:
        entries, identities: n and c.
        first_open_s: with nothing but `.rec` and `.idx`: lines are parsed, headers read, and the
            cache is written. `first_open_peak_mib`: the largest resident set on the way.
        open_s: with the cache, the best of three.
        rank_mib: memory that opening adds to the process and that no other can share, after all
            labels and offsets were read.
        mapped_mib: memory mapped from the cache, which all processes of the machine share.
        worker_mib: what a loader worker, forked or spawned, has of its own after reading all of it:
            the greater of the two.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rec = folder / "train.rec"
    try:
        identities = write_dataset(rec, entries)
        first_open_s, peak = _in_new_process(_open_first, rec)
        again = _in_new_process(_open_again, rec)
    finally:
        for path in (rec, rec.with_suffix(".idx"), rec.with_suffix(".idx.cache")):
            path.unlink(missing_ok=True)
    return {
        "entries": entries,
        "identities": identities,
        "first_open_s": first_open_s,
        "first_open_peak_mib": peak,
        **again,
    }


def write_dataset(rec: Path, images: int) -> int:
    """Write `rec` and its `.idx`; return the number of identities."""
    identities = -(-images // _IMAGES_PER_IDENTITY)
    with rec.open("wb") as file, rec.with_suffix(".idx").open("wb") as index:
        header = pack_record([images + 1, images + 1 + identities], 0, b"")
        file.write(np.array([MAGIC, len(header)], "<u4").tobytes() + header)
        index.write(b"0\t0\n")
        start = file.tell()
        for first in range(1, images + 1, _AT_ONCE):
            keys = np.arange(first, min(first + _AT_ONCE, images + 1))
            block = _blank(_RECORD, keys)
            block["label"] = (keys - 1) // _IMAGES_PER_IDENTITY
            block.tofile(file)
            _write_lines(index, keys, start + (keys - 1) * _RECORD.itemsize)
        start += images * _RECORD.itemsize
        keys = np.arange(images + 1, images + 1 + identities)
        block = _blank(_RANGE, keys)
        block["flag"] = 2
        starts = np.arange(1, images + 1, _IMAGES_PER_IDENTITY)
        block["labels"] = np.stack([starts, np.append(starts[1:], images + 1)], 1)
        block.tofile(file)
        _write_lines(index, keys, start + np.arange(identities) * _RANGE.itemsize)
    return identities


def _blank(kind: np.dtype[Any], keys: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
    block = np.zeros(len(keys), kind)
    block["magic"], block["size"], block["id"] = MAGIC, kind.itemsize - 8, keys
    return block


def _write_lines(file: Any, keys: npt.NDArray[np.int64], offsets: npt.NDArray[np.int64]) -> None:
    numbers = np.stack([keys, offsets], 1).ravel().tolist()
    file.write((b"%d\t%d\n" * len(keys)) % tuple(numbers))


def _in_new_process(work: Callable[[Path], Result], rec: Path) -> Result:
    """Return `work(rec)` of a process that has done nothing else."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(there, work, rec))
    process.start()
    there.close()
    result: Result = here.recv()
    process.join()
    return result


def _send(connection: Connection, work: Callable[[Path], Any], rec: Path) -> None:
    connection.send(work(rec))


def _open_first(rec: Path) -> tuple[float, float]:
    """Return the seconds of opening `rec` without a cache, and the MiB that it took at its peak."""
    before = _field("status", "VmHWM")
    started = time.perf_counter()
    open_dataset(rec)
    return time.perf_counter() - started, _field("status", "VmHWM") - before


def _open_again(rec: Path) -> dict[str, float]:
    """Return what opening `rec` with its cache takes, of this process and of its workers."""
    own, mapped = _field("status", "RssAnon"), _field("status", "RssFile")
    started = time.perf_counter()
    dataset = open_dataset(rec)
    seconds = [time.perf_counter() - started]
    _read_all(dataset)
    own = _field("status", "RssAnon") - own
    mapped = _field("status", "RssFile") - mapped
    for _ in range(2):
        started = time.perf_counter()
        open_dataset(rec)
        seconds.append(time.perf_counter() - started)
    forked, spawned = (_worker_memory(dataset, method) for method in ("fork", "spawn"))
    worker = max(forked, spawned - _worker_memory(None, "spawn"))
    return {"open_s": min(seconds), "rank_mib": own, "mapped_mib": mapped, "worker_mib": worker}


def _worker_memory(dataset: ImageDataset | None, method: Literal["fork", "spawn"]) -> float:
    """Return the MiB that a worker has of its own and, if forked, did not have at its start."""
    context: BaseContext = multiprocessing.get_context(method)
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(dataset, there, method == "fork"))  # type: ignore[attr-defined]
    process.start()
    there.close()
    own: float = here.recv()
    process.join()
    return own


def _work(dataset: ImageDataset | None, connection: Connection, is_forked: bool) -> None:
    before = _field("smaps_rollup", "Private_Dirty") if is_forked else 0.0
    if dataset is not None:
        _read_all(dataset)
    connection.send(_field("smaps_rollup", "Private_Dirty") - before)


def _read_all(dataset: ImageDataset) -> None:
    """Look at every label and every 500th offset: each page of the tables."""
    dataset.labels.max()
    for index in range(0, len(dataset), 500):
        dataset.describe(index)


def _field(file: str, name: str) -> float:
    """Return a number of `/proc/self`, in MiB."""
    for line in Path("/proc/self", file).read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024 / _MIB
    raise OSError(f"/proc/self/{file} has no {name}")
