import re
import time

import numpy as np
import pytest
import simplejpeg

from data.loading.choose_decoder import measure
from data.loading.cpu_decoder import CpuDecoder
from data.loading.loader import Loader
from data.loading.tuning import Pace, Spent, advice, choose_pace, resized_share, spending

SIDE = 16


class Images:
    """As many small images as asked for, each after some seconds of waiting."""

    num_classes = 1
    class_mapping: dict[int | str, int] | None = None

    def __init__(
        self, count: int, *, seconds: float = 0.0, bad: frozenset[int] = frozenset()
    ) -> None:
        self.labels = np.zeros(count, np.int64)
        self.seconds, self.bad = seconds, bad
        self.image = simplejpeg.encode_jpeg(np.zeros((SIDE, SIDE, 3), np.uint8))

    def __len__(self) -> int:
        return len(self.labels)

    def encoded(self, index: int) -> bytes:
        if self.seconds:
            time.sleep(self.seconds)
        return b"\xff\xd8 none" if index in self.bad else self.image

    def describe(self, index: int) -> str:
        return f"image {index}"

    def storage_order(self) -> None:
        return None


def choose(spent: Spent, *, device: str = "cuda", cores: int = 16, batch: int = 128) -> Pace:
    return choose_pace(
        "auto", "auto", spent, device_type=device, cores=cores, batch_size=batch, image_size=112
    )


def test_a_block_is_told_apart_into_running_and_waiting() -> None:
    with spending(3) as spent:
        time.sleep(0.05)
    assert spent.images == 3
    assert spent.stored >= 0.03
    with spending(1) as spent:
        end = time.thread_time() + 0.05
        while time.thread_time() < end:
            pass
    assert spent.decoding >= 0.05
    assert spent.wall >= spent.decoding


def test_threads_keep_up_with_the_device_within_its_cores() -> None:
    fast = Spent(images=10_000, wall=1.0, decoding=1.0)
    assert choose(fast).workers == 2
    assert choose(fast, device="cpu").workers == 1
    slow = Spent(images=1_000, wall=1.0, decoding=1.0)
    assert choose(slow, cores=16).workers == 15  # one core is left to the rank itself
    assert choose(slow, cores=1).workers == 1
    assert choose(Spent(images=100, wall=1.0, decoding=1.0), device="cpu", cores=4).workers == 4


def test_threads_that_wait_for_storage_may_be_more_than_cores() -> None:
    waiting = Spent(images=1_000, wall=1.0, decoding=0.1)
    assert choose(waiting, cores=2).workers == 10
    assert choose(waiting, cores=8).workers == 20
    assert choose(Spent(images=10, wall=1.0, decoding=0.001), cores=8).workers == 32


def test_a_core_taken_by_others_is_no_reason_for_threads() -> None:
    crowded = Spent(images=10_000, wall=10.0, decoding=1.0, queued=9.0)
    assert choose(crowded) == choose(Spent(images=10_000, wall=1.0, decoding=1.0))


def test_batches_ahead_cover_a_stall_within_memory() -> None:
    fast = Spent(images=10_000, wall=1.0, decoding=1.0)
    assert choose(fast, batch=128).prefetch == round(20_000 * 0.25 / 128)
    assert choose(fast, batch=8192).prefetch == 3  # a batch is 308 MB
    assert choose(fast, device="cpu", batch=128).prefetch == 2


def test_the_reason_names_choice_and_measurement() -> None:
    pace = choose(Spent(images=10_000, wall=1.0, decoding=0.75))
    assert pace.reason == (
        "2 loader threads a rank, 39 batches ahead: one thread loads 10,000 images/s, 25% of it "
        "reading; 16 cores a rank; a cuda device trains at most some 20,000 images/s"
    )
    fixed = choose_pace(3, 5, Spent(), device_type="cpu", cores=2, batch_size=8, image_size=112)
    assert (fixed.workers, fixed.prefetch) == (3, 5)
    assert "as configured; no record could be measured" in fixed.reason


def test_the_probe_reads_from_everywhere_and_ends_soon() -> None:
    spent = measure(CpuDecoder, Images(50), SIDE)
    assert spent.images == 50
    assert spent.wall >= spent.decoding > 0
    slow = measure(CpuDecoder, Images(1000, seconds=0.03), SIDE)
    assert slow.images == 16
    assert slow.stored > 0.4
    assert measure(CpuDecoder, Images(9, bad=frozenset(range(9))), SIDE).images == 0


def test_resized_images_are_counted_without_decoding() -> None:
    assert resized_share(Images(10), 10, SIDE) == 0.0
    assert resized_share(Images(10, bad=frozenset([3])), 10, SIDE + 1) == 1.0


@pytest.mark.parametrize(
    ("spent", "workers", "resized", "words"),
    [
        (Spent(100, wall=1.0, decoding=0.3), 1, 1.0, "storage in 70% .*data.order: blocks"),
        (Spent(100, wall=1.0, decoding=0.5, queued=0.5), 1, 1.0, "free core in 50%"),
        (Spent(100, wall=1.0, decoding=1.0), 3, 1.0, "300 images/s .*set data.workers: 8"),
        (Spent(100, wall=1.0, decoding=1.0), 8, 1.0, "100% .* resized .*pack_records"),
        (Spent(100, wall=1.0, decoding=1.0), 8, 0.0, "800 images/s, .* cores give: a remedy$"),
        (Spent(), 8, 0.0, "no batch was loaded"),
    ],
)
def test_one_thing_to_change_is_named(
    spent: Spent, workers: int, resized: float, words: str
) -> None:
    found = advice(spent, workers=workers, cores=8, resized=resized, remedy="a remedy")
    assert re.search(words, found)


def test_a_loader_over_slow_storage_says_so() -> None:
    loader = Loader(Images(30, seconds=0.003), image_size=SIDE, global_batch_size=10)
    assert "no batch" in loader.advice()
    assert len(list(loader.batches(0, 3))) == 3
    assert "loading waits for" in loader.advice()  # on a crowded machine even more for a core
