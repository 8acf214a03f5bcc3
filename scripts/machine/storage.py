"""From the disk and to it: the loader, and checkpoints of a large table."""

import math
import os
import shutil
import time
from pathlib import Path

import torch

from data.datasets.dataset import open_dataset
from data.loading.tuning import TARGET_RATE, usable_cores
from recognition.checkpoint import Checkpoints, ShardedRows, State
from recognition.distributed import World
from recognition.head import PartialFC
from scripts.benchmarks.loader.ways import BARE, Way, Workload, bare_decode, ours
from scripts.machine.step import FULL, GOOD, QUICK, SLOW, TINY, Context, Verdict
from scripts.machine.training import demo_data

LEAST_LOADED = 0.5  # of what as many cores would decode that do nothing else
LEAST_WRITTEN = 0.5  # of the rate of one plain file: a checkpoint is hashed as well
CLASSES = {FULL: 500_000, QUICK: 100_000, TINY: 500}
SIZE = {FULL: 512, QUICK: 512, TINY: 16}
BLOCK = 64 << 20


def loader(context: Context) -> Verdict:
    """Measure the loader next to the decoder alone on one core.

    With as many threads as load what a GPU is meant to take, as a run has with `workers: auto`.
    """
    dataset, batch = open_dataset(demo_data(context)), 8 if context.tiny else 128
    seconds, target = 0.1 if context.tiny else 2.0, TARGET_RATE["cuda"]
    bare = Way(BARE, 1, bare_decode(Workload(dataset, 112, batch, seed=0, prefetch=2)), 0)
    bare_rate = bare.measure(seconds).rate
    workers = min(usable_cores(), math.ceil(target / bare_rate) + 1)
    ours_way = ours(Workload(dataset, 112, batch, seed=0, prefetch=2 * workers), workers)
    loaded = ours_way.measure(seconds).rate
    for way, rate in ((bare, bare_rate), (ours_way, loaded)):
        context.record(what=way.name, threads=way.workers, images_per_s=rate)
    part = loaded / (bare_rate * workers)
    words = f"{loaded:,.0f} images/s with {workers} threads, {part:.0%} of the decoder alone"
    if context.tiny or part >= LEAST_LOADED or loaded >= target:
        return Verdict(GOOD, words)
    return Verdict(SLOW, f"{words} on as many cores, expected {LEAST_LOADED:.0%}")


def checkpoint(context: Context) -> Verdict:
    """Save and load a head's table, next to one plain file of the same size on the same disk."""
    classes, folder = CLASSES[context.scale], context.folder / "checkpoint"
    head = PartialFC(SIZE[context.scale], classes, device=context.device)
    tensors = head.state_tensors()
    size = sum(tensor.nbytes for tensor in tensors.values())
    free = shutil.disk_usage(context.folder).free
    if free < 3 * size:
        words = f"not measured: needs {3 * size / 1e9:.1f} GB of disk, {free / 1e9:.1f} are free"
        return Verdict(SLOW, words)
    plain = _written(folder, size)
    rows = {name: ShardedRows(each, classes, 0) for name, each in head.state_rows().items()}
    state = State({"none": torch.zeros(1)}, {}, rows, {"progress": {"step": 1}})
    checkpoints = Checkpoints(folder, world=World(), keep=1)
    started = time.perf_counter()
    saved = checkpoints.save(1, state, best=False)
    between = time.perf_counter()
    expected = {name: tensor[-1].clone() for name, tensor in tensors.items()}
    for tensor in tensors.values():
        tensor.zero_()
    zeroed = time.perf_counter()
    assert checkpoints.find("auto") == saved, "the only checkpoint"
    checkpoints.load(saved, state)
    ended = time.perf_counter()
    assert all(torch.equal(tensors[name][-1], row) for name, row in expected.items())
    save, load, written = (
        size / seconds / 1e9 for seconds in (between - started, ended - zeroed, plain)
    )
    context.record(
        GB=size / 1e9, saved_GB_per_s=save, loaded_GB_per_s=load, plain_file_GB_per_s=written
    )
    words = f"{save:.2f} GB/s saved, {load:.2f} loaded and checked"
    if context.tiny or save >= LEAST_WRITTEN * written:
        return Verdict(GOOD, words)
    return Verdict(SLOW, f"{words}; a plain file is written at {written:.2f}")


def _written(folder: Path, size: int) -> float:
    """Return the seconds of writing so many bytes to one file, on disk at the end."""
    folder.mkdir(parents=True)
    file, block = folder / "plain", os.urandom(min(size, BLOCK))
    started = time.perf_counter()
    with file.open("wb", buffering=0) as stream:
        for _ in range(-(-size // len(block))):
            stream.write(block)
        os.fsync(stream.fileno())
    seconds = time.perf_counter() - started
    file.unlink()
    return seconds
