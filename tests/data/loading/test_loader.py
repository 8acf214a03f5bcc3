import threading
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data.datasets.dataset import open_dataset
from data.loading.cpu_decoder import ImageBuffers
from data.loading.decode import BadImage, decode_batch
from data.loading.loader import Batch, BatchSpec, Loader
from data.order.class_orders import ClassBalancedOrder, PKOrder
from data.order.orders import BlockOrder, FileOrder, GlobalOrder, SampleOrder
from recognition.distributed import part_range
from tests.data.loading.memory import SIDE, MemoryDataset


@pytest.fixture(params=[1, 3])
def workers(request: pytest.FixtureRequest) -> Iterator[int]:
    before = threading.active_count()
    yield request.param
    assert threading.active_count() == before


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
    assert batch.labels.dtype == torch.int64  # whatever dtype the dataset has


def test_the_error_of_a_bad_image_is_raised_in_place_of_its_batch(workers: int) -> None:
    dataset = MemoryDataset()
    dataset.images[11] = b"\xff\xd8 no image"
    loader = Loader(dataset, image_size=SIDE, global_batch_size=5, workers=workers)
    bad = next(step for step in range(6) if 11 in loader.spec(step, 0).indices)
    assert bad > 0
    batches = loader.batches(0, 6)
    assert len(list(islice(batches, bad))) == bad
    with pytest.raises(BadImage, match=r"^memory, image 11: ") as caught:
        next(batches)
    assert "\n" not in str(caught.value)


def test_closing_ends_the_threads(workers: int) -> None:
    loader = Loader(MemoryDataset(), image_size=SIDE, global_batch_size=10, workers=workers)
    before = threading.active_count()
    batches = loader.batches(0, 10**6)
    assert len(list(islice(batches, 3))) == 3
    assert before < threading.active_count() <= before + workers  # idle threads are used first
    del batches


def test_batches_that_are_held_are_not_written_to_again(workers: int) -> None:
    dataset = MemoryDataset()
    loader = Loader(dataset, image_size=SIDE, global_batch_size=6, workers=workers)
    held: list[tuple[torch.Tensor, BatchSpec]] = []
    addresses: list[int] = []
    for step, batch in enumerate(loader.batches(0, 40)):
        addresses.append(batch.images.data_ptr())
        if step % 3 == 0:  # a view is enough to keep the memory
            held.append((batch.images[2:4], loader.spec(step, 0)))
    for images, spec in held:
        expected = decode_batch(dataset, spec.indices[2:4], SIDE).transpose(0, 3, 1, 2)
        assert (images.numpy() == expected).all()
    assert len(set(addresses)) < len(addresses)


def test_memory_of_batches_is_used_again() -> None:
    buffers = ImageBuffers(pin_memory=False)
    images = buffers.take(5, SIDE)
    view, address = images[3:], images.data_ptr()
    del images
    assert buffers.take(5, SIDE).data_ptr() != address
    del view
    others = [torch.empty(5, SIDE, SIDE, 3, dtype=torch.uint8) for _ in range(20)]
    assert address not in {other.data_ptr() for other in others}
    again = [buffers.take(4, SIDE) for _ in range(2)]
    assert address in {images.data_ptr() for images in again}
    assert buffers.take(9, SIDE).shape == (9, SIDE, SIDE, 3)  # more than before


def test_loading_draws_no_random_numbers(workers: int) -> None:
    before = torch.get_rng_state()
    loader = Loader(MemoryDataset(), image_size=SIDE, global_batch_size=3, workers=workers)
    assert len(list(loader.batches(0, 1))) == 1
    assert torch.equal(torch.get_rng_state(), before)


def test_images_and_labels_move_to_the_device() -> None:
    (batch,) = Loader(MemoryDataset(), image_size=SIDE, global_batch_size=3).batches(0, 1)
    moved = batch.to(torch.device("meta"))
    assert isinstance(moved, Batch)
    assert moved.images.device.type == moved.labels.device.type == "meta"
    assert moved.indices is batch.indices, "read on the host"
    assert moved.epochs is batch.epochs
    assert moved.images.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.gpu
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
        (
            {"global_batch_size": 5, "accumulation": 2, "world_size": 3},
            "global_batch_size is 5: 2 .* 3 .* 6",
        ),
        ({"global_batch_size": 5, "accumulation": 0}, "accumulation is 0"),
        ({"global_batch_size": 5, "world_size": 0}, "world_size is 0"),
        ({"global_batch_size": 5, "rank": 1}, "rank is 1 of 1"),
        ({"global_batch_size": 5, "workers": 0}, "workers is 0"),
        ({"global_batch_size": 5, "prefetch": 0}, "prefetch is 0"),
    ],
)
def test_wrong_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Loader(MemoryDataset(), image_size=SIDE, **arguments)


def test_an_order_of_another_dataset_is_refused() -> None:
    with pytest.raises(ValueError, match=r"29 .* 30"):
        Loader(MemoryDataset(), image_size=SIDE, global_batch_size=3, order=GlobalOrder(29, 0))


@pytest.mark.parametrize("label", [-1, 10])
def test_a_label_that_is_no_class_names_step_image_and_label(label: int) -> None:
    dataset = MemoryDataset(30)  # of 10 classes
    dataset.labels[17] = label
    loader = Loader(
        dataset, image_size=SIDE, global_batch_size=4, accumulation=2, order=FileOrder(30)
    )
    batches = loader.batches(1, 7)
    assert len(list(islice(batches, 6))) == 6
    with pytest.raises(ValueError, match=rf"step 4.*image 17 .*{label}.* 0 to 9"):
        next(batches)


def test_wrong_steps_are_refused() -> None:
    loader = Loader(MemoryDataset(), image_size=SIDE, global_batch_size=3)
    with pytest.raises(ValueError, match=r"steps \[3, 2\)"):
        loader.batches(3, 2)


@pytest.mark.parametrize("batch_size", [5, 600, 5000])
def test_batches_are_those_of_the_specs_for_any_number_of_steps_looked_up_together(
    batch_size: int,
) -> None:
    dataset = MemoryDataset()
    for rank, accumulation in [(0, 1), (1, 2)]:
        loader = Loader(
            dataset, image_size=SIDE, global_batch_size=batch_size, accumulation=accumulation,
            order=ORDERS["blocks"], rank=rank, world_size=2, workers=2,
        )  # fmt: skip
        specs = [loader.spec(step, micro) for step in (3, 4, 5) for micro in range(accumulation)]
        for batch, spec in zip(loader.batches(3, 6), specs, strict=True):
            assert batch.indices.tolist() == spec.indices.tolist()
            assert batch.epochs.tolist() == spec.epochs.tolist()
