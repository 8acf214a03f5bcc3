import time

import numpy as np
import pytest

from data.loading.choose_decoder import measure
from data.loading.cpu_decoder import CpuDecoder
from data.loading.loader import Loader
from data.loading.tuning import (
    SourceSizes,
    Timings,
    WorkerPlan,
    hint,
    measure_time,
    plan_workers,
    source_sizes,
)
from tests.data.image_samples import encode_pixels
from tests.data.loading.memory import SIDE, MemoryDataset


def plan(
    timings: Timings, *, device: str = "cuda", cores: int = 16, batch: int = 128
) -> WorkerPlan:
    return plan_workers(
        "auto", "auto", timings, device_type=device, cores=cores, batch_size=batch, image_size=112
    )


def test_running_and_waiting_are_told_apart() -> None:
    with measure_time(3) as timings:
        time.sleep(0.05)
    assert timings.images == 3
    assert timings.storage >= 0.03
    with measure_time(1) as timings:
        end = time.thread_time() + 0.05
        while time.thread_time() < end:
            pass
    assert timings.decoding >= 0.05
    assert timings.wall >= timings.decoding


def test_timings_add_up() -> None:
    total = sum([Timings(3, 4.0, 2.0, 0.5), Timings(1, 2.0, 1.5)], Timings())
    assert total == Timings(4, 6.0, 3.5, 0.5)
    assert total.storage == 2.0


def test_threads_keep_up_with_the_device_within_its_cores() -> None:
    fast = Timings(images=10_000, wall=1.0, decoding=1.0)
    assert plan(fast).workers == 2
    assert plan(fast, device="cpu").workers == 1
    slow = Timings(images=1_000, wall=1.0, decoding=1.0)
    assert plan(slow, cores=16).workers == 15  # one core is left to the training thread
    assert plan(slow, cores=1).workers == 1
    assert plan(Timings(images=100, wall=1.0, decoding=1.0), device="cpu", cores=4).workers == 4


def test_threads_that_wait_for_storage_may_be_more_than_cores() -> None:
    waiting = Timings(images=1_000, wall=1.0, decoding=0.1)
    assert plan(waiting, cores=2).workers == 10
    assert plan(waiting, cores=8).workers == 20
    assert plan(Timings(images=10, wall=1.0, decoding=0.001), cores=8).workers == 32


def test_waiting_for_a_core_does_not_change_the_plan() -> None:
    crowded = Timings(images=10_000, wall=10.0, decoding=1.0, queued=9.0)
    assert plan(crowded) == plan(Timings(images=10_000, wall=1.0, decoding=1.0))


def test_prefetched_batches_cover_a_stall_within_memory() -> None:
    fast = Timings(images=10_000, wall=1.0, decoding=1.0)
    assert plan(fast, batch=128).prefetch == round(20_000 * 0.25 / 128)
    assert plan(fast, batch=8192).prefetch == 3  # a batch is 308 MB
    assert plan(fast, device="cpu", batch=128).prefetch == 2


def test_the_reason_has_the_plan_and_what_was_measured() -> None:
    reason = plan(Timings(images=10_000, wall=1.0, decoding=0.75)).reason
    for value in ("2 loader threads", "39 batches", "10,000 images/s", "25%", "16 cores", "20,000"):
        assert value in reason
    fixed = plan_workers(3, 5, Timings(), device_type="cpu", cores=2, batch_size=8, image_size=112)
    assert (fixed.workers, fixed.prefetch) == (3, 5)
    for value in ("3 loader threads", "5 batches", "2 cores", "1,000 images/s"):
        assert value in fixed.reason


def test_the_probe_reads_from_everywhere_and_ends_soon() -> None:
    timings = measure(CpuDecoder, MemoryDataset(50), SIDE)
    assert timings.images == 50
    assert timings.wall >= timings.decoding > 0
    slow = measure(CpuDecoder, MemoryDataset(1000, seconds=0.03), SIDE)
    assert slow.images == 16
    assert slow.storage > 0.4
    assert measure(CpuDecoder, MemoryDataset([b"\xff\xd8 none"] * 9), SIDE).images == 0


def test_sizes_of_images_are_known_without_decoding() -> None:
    images = MemoryDataset(10)
    assert source_sizes(images, 10, SIDE) == SourceSizes(0.0, SIDE, SIDE, 1.0)
    images.images[3] = b"\xff\xd8 none"
    images.images[4] = encode_pixels(np.zeros((SIDE, 10 * SIDE), np.uint8), "JPEG")
    found = source_sizes(images, 10, SIDE)
    assert (found.resized, found.width, found.height, found.ratio) == pytest.approx(
        (1 / 9, 2 * SIDE, SIDE, 2.0)
    )
    assert source_sizes(MemoryDataset([b""]), 1, SIDE) == SourceSizes()


PHOTOS = SourceSizes(1.0, 2400, 1600, 2400 * 1600 / 112**2)
LARGER = SourceSizes(1.0, 128, 128, 128**2 / 112**2)
FITTING = SourceSizes(0.0, 112, 112, 1.0)


@pytest.mark.parametrize(
    ("timings", "workers", "sizes", "values"),
    [
        (Timings(100, wall=1.0, decoding=0.3), 1, LARGER, ["storage", "70%", "data.order: blocks"]),
        (Timings(100, wall=1.0, decoding=0.5, queued=0.5), 1, FITTING, ["core", "50%"]),
        (Timings(100, wall=1.0, decoding=0.5, queued=0.5), 1, LARGER, ["128x128", "50%", "pack"]),
        (Timings(100, wall=1.0, decoding=1.0), 3, FITTING, ["300 images/s", "data.workers: 8"]),
        (Timings(100, wall=1.0, decoding=1.0), 3, LARGER, ["10.0 ms", "100%", "pack"]),
        (Timings(100, wall=1.0, decoding=1.0), 8, FITTING, ["800 images/s", "decoder's"]),
        (Timings(), 8, PHOTOS, ["storage"]),
        (Timings(20, wall=1.0, decoding=0.9), 3, PHOTOS, ["2,400x1,600", "50.0", "90%", "pack"]),
        (Timings(20, wall=1.0, decoding=0.2, queued=0.8), 8, PHOTOS, ["20%", "0%", "pack"]),
        (Timings(20, wall=1.0, decoding=0.3), 8, PHOTOS, ["30%", "70%", "pack"]),
    ],
)
def test_one_thing_to_change_is_named(
    timings: Timings, workers: int, sizes: SourceSizes, values: list[str]
) -> None:
    found = hint(
        timings, workers=workers, cores=8, sizes=sizes, pack_hint="pack", decoder_hint="decoder's"
    )
    assert all(value in found for value in values)
    remedies = ["data.order", "data.workers", "more cores", "pack", "decoder's"]
    assert sum(remedy in found for remedy in remedies) <= 1


def test_a_loader_reports_slow_storage() -> None:
    loader = Loader(MemoryDataset(30, seconds=0.003), image_size=SIDE, global_batch_size=10)
    assert "%" not in loader.hint(), "nothing was loaded yet"
    assert len(list(loader.batches(0, 3))) == 3
    assert "waits for" in loader.hint()  # on a busy machine even more for a core
