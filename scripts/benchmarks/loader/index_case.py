"""What opening a dataset as large as Glint360K costs: seconds, and memory of rank and worker.

Shape legend: n images, c identities.
"""

import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data.datasets.dataset import ImageDataset, open_dataset
from data.records.format import MAGIC, pack_record
from scripts.benchmarks.common.memory import memory_field
from scripts.benchmarks.common.processes import in_fresh_process

GLINT360K_IMAGES = 17_091_657
_IMAGES_PER_IDENTITY = 47  # 360k identities of 17 million images
_IMAGE_BYTES = 8
_CHUNK = 1 << 20  # images that are written at once
_MIB = 1 << 20

_HEADER = [
    ("magic", "<u4"), ("size", "<u4"), ("flag", "<u4"), ("label", "<f4"), ("id", "<u8"),
    ("id2", "<u8"),
]  # fmt: skip
_RECORD = np.dtype([*_HEADER, ("image", f"V{_IMAGE_BYTES}")])
_RANGE = np.dtype([*_HEADER, ("labels", "<f4", 2)])


def measure_index(entries: int, folder: Path) -> dict[str, float]:
    """Write a dataset of `entries` tiny images into `folder`, open it, and delete its files.

    It has the layout of the public datasets: a header record, keys 1 … n, and a record with the
    range of keys of each identity. Each measurement has a fresh process. Needs Linux, which tells
    how much of a process's memory is private, and 80 bytes of disk per image.

    Returns:
        entries, identities: n and c.
        first_open_s: with only `.rec` and `.idx`: lines are parsed, headers read, and the cache is
            written. `first_open_peak_mib`: growth of the resident set at its peak.
        open_s: with the cache, the best of three.
        rank_mib: private memory that opening adds to the process, after all labels and offsets
            were read.
        mapped_mib: memory mapped from the cache, which all processes of the machine share.
        worker_mib: private memory of a loader worker after reading all of it, forked or spawned,
            whichever is larger.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rec = folder / "train.rec"
    try:
        identities = write_dataset(rec, entries)
        # Spawned: the code that a forked process touches anew would count as mapped.
        first_open_s, peak = in_fresh_process(_open_first, rec, start_method="spawn")
        again = in_fresh_process(_open_again, rec, start_method="spawn")
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
        for first in range(1, images + 1, _CHUNK):
            keys = np.arange(first, min(first + _CHUNK, images + 1))
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


def _open_first(rec: Path) -> tuple[float, float]:
    """Return the seconds of opening `rec` without a cache, and the peak MiB that it adds."""
    before = _mib("VmHWM")
    seconds = _open_seconds(rec)
    return seconds, _mib("VmHWM") - before


def _open_again(rec: Path) -> dict[str, float]:
    """Return what opening `rec` with its cache costs this process and its workers."""
    private, mapped = _mib("RssAnon"), _mib("RssFile")
    started = time.perf_counter()
    dataset = open_dataset(rec)
    seconds = [time.perf_counter() - started]
    _read_all(dataset)
    private, mapped = _mib("RssAnon") - private, _mib("RssFile") - mapped
    seconds += [_open_seconds(rec) for _ in range(2)]
    forked = in_fresh_process(_private_growth, dataset, start_method="fork")
    spawned, idle = (
        in_fresh_process(_private_memory, one, start_method="spawn") for one in (dataset, None)
    )
    worker = max(forked, spawned - idle)
    return {"open_s": min(seconds), "rank_mib": private, "mapped_mib": mapped, "worker_mib": worker}


def _open_seconds(rec: Path) -> float:
    started = time.perf_counter()
    open_dataset(rec)
    return time.perf_counter() - started


def _private_growth(dataset: ImageDataset) -> float:
    """Return the MiB that become private to a forked process while it reads all of `dataset`."""
    before = _private_memory(None)
    return _private_memory(dataset) - before


def _private_memory(dataset: ImageDataset | None) -> float:
    """Return the private MiB of this process after it has read all of `dataset`, if any."""
    if dataset is not None:
        _read_all(dataset)
    return _mib("Private_Dirty", "/proc/self/smaps_rollup")


def _read_all(dataset: ImageDataset) -> None:
    """Read every label and every 500th offset: each page of the tables."""
    dataset.labels.max()
    for index in range(0, len(dataset), 500):
        dataset.describe(index)


def _mib(name: str, file: str = "/proc/self/status") -> float:
    return memory_field(name, file) / _MIB
