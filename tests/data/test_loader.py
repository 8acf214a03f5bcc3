import multiprocessing
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg
import torch

from data.dataset import open_dataset
from data.decode import BadImage, decode_batch
from data.loader import Batch, Loader, choose_workers
from data.order import BlockOrder, FileOrder, GlobalOrder, SampleOrder
from data.prefetch import prefetched
from data.samplers import ClassBalancedOrder, PKOrder
from recognition.sharding import part_range

SIDE = 16


class MemoryDataset:
    """Images of one colour each in memory, three to a class."""

    num_classes = 10
    class_mapping: dict[int | str, int] | None = None

    def __init__(self, count: int = 30) -> None:
        self.labels = np.arange(count, dtype=np.int64) // 3
        shades = np.linspace(0, 255, count).astype(np.uint8)
        self.images: list[bytes] = [
            simplejpeg.encode_jpeg(np.full((SIDE, SIDE, 3), shade, np.uint8)) for shade in shades
        ]

    def __len__(self) -> int:
        return len(self.images)

    def encoded(self, index: int) -> bytes:
        return self.images[index]

    def describe(self, index: int) -> str:
        return f"memory, image {index}"

    def storage_order(self) -> None:
        return None


class BrokenDataset(MemoryDataset):
    """Fails in its own code at one sample."""

    def encoded(self, index: int) -> bytes:
        if index == 7:
            raise BrokenError(index, "of my own")
        return super().encoded(index)


class BrokenError(Exception):
    """Does not survive pickling: its constructor wants two arguments."""

    def __init__(self, index: int, reason: str) -> None:
        super().__init__(f"no sample {index}, a reason {reason}")


@pytest.fixture(params=[0, 2], ids=["thread", "workers"])
def workers(request: pytest.FixtureRequest) -> Iterator[int]:
    yield request.param
    assert multiprocessing.active_children() == []


LABELS = MemoryDataset().labels
ORDERS: dict[str, SampleOrder] = {
    "global": GlobalOrder(30, seed=4),
    "blocks": BlockOrder(30, seed=4, block_records=4, mixing_blocks=3),
    "none": FileOrder(30),
    "class_balanced": ClassBalancedOrder(LABELS, seed=4),
    "p_k": PKOrder(LABELS, seed=4, identities_per_batch=4, images_per_identity=5),
}


@pytest.mark.parametrize("kind", ORDERS)
def test_a_step_is_the_same_samples_on_every_world_and_accumulation(kind: str) -> None:
    dataset, batch_size, step, order = MemoryDataset(), 11, 5, ORDERS[kind]
    expected, expected_epochs = order.order(step * batch_size, (step + 1) * batch_size)
    for accumulation, world_size in [(1, 1), (1, 3), (2, 1), (3, 2), (2, 4), (11, 1), (1, 11)]:
        seen: list[int] = []
        epochs: list[int] = []
        for micro in range(accumulation):
            for rank in range(world_size):
                loader = Loader(
                    dataset,
                    image_size=SIDE,
                    global_batch_size=batch_size,
                    accumulation=accumulation,
                    order=order,
                    rank=rank,
                    world_size=world_size,
                )
                spec = loader.spec(step, micro)
                begin, end = part_range(batch_size, accumulation, micro)
                first, last = part_range(end - begin, world_size, rank)
                assert len(spec.indices) == last - first >= 1
                seen.extend(spec.indices)
                epochs.extend(spec.epochs)
        assert seen == expected.tolist()
        assert epochs == expected_epochs.tolist()


def test_batches_hold_what_their_specs_say(workers: int) -> None:
    dataset = MemoryDataset()
    loader = Loader(dataset, image_size=SIDE, global_batch_size=8, accumulation=2, workers=workers)
    batches = list(loader.batches(2, 5))
    assert len(batches) == 6
    for number, batch in enumerate(batches):
        spec = loader.spec(2 + number // 2, number % 2)
        assert (batch.indices.numpy() == spec.indices).all()
        assert (batch.epochs.numpy() == spec.epochs).all()
        assert (batch.labels.numpy() == dataset.labels[spec.indices]).all()
        expected = decode_batch(dataset, spec.indices, SIDE).transpose(0, 3, 1, 2)
        assert (batch.images.numpy() == expected).all()
        assert batch.images.shape == (4, 3, SIDE, SIDE)
        assert batch.images.is_contiguous(memory_format=torch.channels_last)
        assert [batch.images.dtype, batch.labels.dtype] == [torch.uint8, torch.int64]
        assert [batch.indices.dtype, batch.epochs.dtype] == [torch.int64, torch.int64]
        assert len(batch) == 4
    assert len(set(np.concatenate([batch.epochs for batch in batches]))) == 2


def test_any_step_can_be_the_first(workers: int) -> None:
    loader = Loader(MemoryDataset(), image_size=SIDE, global_batch_size=7, workers=workers)
    whole = list(loader.batches(0, 9))
    rest = list(loader.batches(6, 9))
    for left, right in zip(whole[6:], rest, strict=True):
        assert torch.equal(left.indices, right.indices)
        assert torch.equal(left.images, right.images)
    assert list(loader.batches(4, 4)) == []


def test_image_folders_are_loaded(tmp_path: Path, workers: int) -> None:
    source = MemoryDataset(6)
    for i, image in enumerate(source.images):
        folder = tmp_path / f"person{source.labels[i]}"
        folder.mkdir(exist_ok=True)
        (folder / f"{i}.jpg").write_bytes(image)
    loader = Loader(open_dataset(tmp_path), image_size=SIDE, global_batch_size=6, workers=workers)
    (batch,) = loader.batches(0, 1)
    assert sorted(batch.labels.tolist()) == [0, 0, 0, 1, 1, 1]


def test_a_bad_image_arrives_as_it_was_raised(workers: int) -> None:
    dataset = MemoryDataset()
    dataset.images[11] = b"\xff\xd8 no image"
    loader = Loader(dataset, image_size=SIDE, global_batch_size=5, workers=workers)
    guilty = next(step for step in range(6) if 11 in loader.spec(step, 0).indices)
    assert guilty > 0
    batches = loader.batches(0, 6)
    assert len(list(islice(batches, guilty))) == guilty
    with pytest.raises(BadImage) as caught:
        next(batches)
    assert str(caught.value).startswith("memory, image 11: cannot decode")
    assert "\n" not in str(caught.value)


def test_a_bug_in_a_worker_keeps_its_place() -> None:
    loader = Loader(BrokenDataset(), image_size=SIDE, global_batch_size=30, workers=1)
    with pytest.raises(RuntimeError) as caught:
        list(loader.batches(0, 1))
    assert str(caught.value) == "BrokenError: no sample 7, a reason of my own"
    assert "in encoded" in caught.value.__notes__[0]


def test_a_killed_worker_ends_the_process() -> None:
    # In a process of its own: torch raises from a signal handler, wherever the code then is.
    code = (
        "import multiprocessing, os, signal\n"
        "from tests.data.test_loader import *\n"
        "loader = Loader(MemoryDataset(), image_size=16, global_batch_size=10, workers=2)\n"
        "batches = loader.batches(0, 10**6)\n"
        "next(batches)\n"
        "os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)\n"
        "list(batches)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert re.search(r"RuntimeError: DataLoader worker .*(killed by|exited unexp)", done.stderr)


def test_closing_ends_the_workers(workers: int) -> None:
    loader = Loader(MemoryDataset(), image_size=SIDE, global_batch_size=10, workers=workers)
    batches = loader.batches(0, 10**6)
    assert len(list(islice(batches, 3))) == 3
    assert len(multiprocessing.active_children()) == workers
    del batches


def test_a_killed_process_leaves_no_workers() -> None:
    code = (
        "import multiprocessing, time\n"
        "from tests.data.test_loader import *\n"
        "loader = Loader(MemoryDataset(), image_size=16, global_batch_size=10, workers=2)\n"
        "batches = loader.batches(0, 10**6)\n"
        "next(batches)\n"
        "print(*(child.pid for child in multiprocessing.active_children()), flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        pids = [int(pid) for pid in process.stdout.readline().split()]
        process.kill()
    assert len(pids) == 2
    deadline = time.monotonic() + 30
    while any(_runs(pid) for pid in pids):
        assert time.monotonic() < deadline, f"workers {pids} outlive their killed parent"
        time.sleep(0.1)


def _runs(pid: int) -> bool:
    status = Path(f"/proc/{pid}/stat")
    try:
        return status.read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_prefetch_is_bounded() -> None:
    made: list[int] = []

    def make(item: int) -> int:
        made.append(item)
        return item

    results = prefetched(make, range(100), ahead=3)
    assert next(results) == 0
    time.sleep(0.05)
    assert made == [0, 1, 2, 3]
    assert list(results) == list(range(1, 100))
    with pytest.raises(ValueError, match="ahead is 0"):
        prefetched(make, [], ahead=0)


def test_starting_workers_draws_no_random_numbers(workers: int) -> None:
    before = torch.get_rng_state()
    loader = Loader(MemoryDataset(), image_size=SIDE, global_batch_size=3, workers=workers)
    assert len(list(loader.batches(0, 1))) == 1
    assert torch.equal(torch.get_rng_state(), before)


def test_what_the_device_computes_with_moves_there() -> None:
    (batch,) = Loader(MemoryDataset(), image_size=SIDE, global_batch_size=3).batches(0, 1)
    moved = batch.to(torch.device("meta"))
    assert isinstance(moved, Batch)
    assert moved.images.device.type == moved.labels.device.type == "meta"
    assert moved.indices is batch.indices, "decided by on the host"
    assert moved.epochs is batch.epochs
    assert moved.images.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_pinned_batches_keep_their_memory_format(workers: int) -> None:
    loader = Loader(
        MemoryDataset(), image_size=SIDE, global_batch_size=3, workers=workers, pin_memory=True
    )
    (batch,) = loader.batches(0, 1)
    assert batch.images.is_pinned()
    assert batch.images.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"global_batch_size": 5, "accumulation": 2, "world_size": 3}, "need at least 6"),
        ({"global_batch_size": 5, "accumulation": 0}, "accumulation is 0"),
        ({"global_batch_size": 5, "rank": 1}, "rank is 1 of 1"),
        ({"global_batch_size": 5, "workers": -1}, "workers is -1"),
        ({"global_batch_size": 5, "prefetch": 0}, "prefetch is 0"),
    ],
)
def test_wrong_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Loader(MemoryDataset(), image_size=SIDE, **arguments)


def test_an_order_of_another_dataset_is_refused() -> None:
    with pytest.raises(ValueError, match="the order is of 29 samples, the dataset has 30"):
        Loader(MemoryDataset(), image_size=SIDE, global_batch_size=3, order=GlobalOrder(29, 0))


def test_wrong_steps_are_refused() -> None:
    loader = Loader(MemoryDataset(), image_size=SIDE, global_batch_size=3)
    with pytest.raises(ValueError, match=r"steps \[3, 2\)"):
        loader.batches(3, 2)


def test_the_number_of_workers_is_chosen_with_a_reason() -> None:
    assert choose_workers(3, device_type="cuda", local_size=8) == (
        3,
        "3 loader workers a rank, as configured",
    )
    assert choose_workers("auto", device_type="cpu", local_size=1)[0] == 0
    count, reason = choose_workers("auto", device_type="cuda", local_size=10_000)
    assert count == 1
    assert "for 10000 ranks" in reason
    with pytest.raises(ValueError, match="workers is -1"):
        choose_workers(-1, device_type="cpu", local_size=1)
