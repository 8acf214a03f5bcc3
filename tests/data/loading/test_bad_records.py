import json
import logging
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch

from data.loading.bad_records import MAX_LINES, TOLERATED, BadRecord, BadRecords, BadRecordsError
from data.loading.decode import decode_batch
from data.loading.loader import Batch, Loader
from data.order.class_orders import ClassBalancedOrder
from data.order.orders import GlobalOrder
from data.records.format import RecordError
from tests.data.loading.memory import SIDE, MemoryDataset
from tests.distributed_harness import run_ranks

BAD = (3, 11, 12, 29)
STEPS, BATCH = 13, 7  # three epochs of 30 samples


def bad_dataset() -> MemoryDataset:
    """Return a dataset with three images that cannot be decoded and one that cannot be read."""
    error = RecordError("memory, image 29: no record starts there")
    dataset = MemoryDataset(errors={BAD[-1]: error})
    for index in BAD[:-1]:
        dataset.images[index] = b"\xff\xd8 no image"
    return dataset


def load(dataset: MemoryDataset | None = None, seed: int = 3, **options: Any) -> Loader:
    dataset = dataset or bad_dataset()
    order = GlobalOrder(len(dataset), seed)
    defaults: dict[str, Any] = {"global_batch_size": BATCH, "replacement_seed": seed}
    return Loader(dataset, image_size=SIDE, order=order, **defaults | options)


def content(batches: list[Batch]) -> list[tuple[int, int, int, bytes]]:
    """Return index, label, epoch and pixels of every sample."""
    return [
        (int(index), int(label), int(epoch), image.numpy().tobytes())
        for batch in batches
        for index, label, epoch, image in zip(
            batch.indices, batch.labels, batch.epochs, batch.images, strict=True
        )
    ]


def test_a_replacement_is_a_good_sample_with_its_own_label_and_index() -> None:
    dataset, loader = bad_dataset(), load()
    wanted = [loader.spec(step, 0).indices for step in range(STEPS)]
    batches = list(loader.batches(0, STEPS))
    replaced = 0
    for indices, batch in zip(wanted, batches, strict=True):
        bad = np.isin(indices, BAD)
        assert (batch.indices.numpy() == indices)[~bad].all()
        assert not np.isin(batch.indices, BAD).any()
        assert (batch.labels.numpy() == dataset.labels[batch.indices]).all()
        pixels = decode_batch(dataset, batch.indices.numpy(), SIDE).transpose(0, 3, 1, 2)
        assert (batch.images.numpy() == pixels).all()
        assert {record.index for record in batch.bad} >= set(indices[bad].tolist())
        replaced += int(bad.sum())
    assert replaced >= 3 * len(BAD)


def test_replacements_differ_by_epoch_sample_and_seed() -> None:
    def replacements(seed: int) -> dict[tuple[int, int], int]:
        loader = load(seed=seed, global_batch_size=30)
        found = {}
        for step, batch in enumerate(loader.batches(0, 16)):
            spec = loader.spec(step, 0)
            for index, epoch, taken in zip(spec.indices, spec.epochs, batch.indices, strict=True):
                if index in BAD:
                    found[int(index), int(epoch)] = int(taken)
        return found

    one, other = replacements(3), replacements(4)
    assert len(one) == len(BAD) * 16
    assert len(set(one.values())) > 20  # of 26 good ones
    assert sum(one[key] != other[key] for key in one) > 50


@pytest.mark.parametrize(
    ("world_size", "accumulation", "workers"), [(1, 1, 2), (1, 3, 1), (3, 1, 1), (2, 2, 3)]
)
def test_replacements_are_the_same_however_the_work_is_split(
    world_size: int, accumulation: int, workers: int
) -> None:
    parts = [
        list(
            load(
                accumulation=accumulation, rank=rank, world_size=world_size, workers=workers
            ).batches(0, STEPS)
        )
        for rank in range(world_size)
    ]
    together = [
        parts[rank][turn] for turn in range(STEPS * accumulation) for rank in range(world_size)
    ]
    assert content(together) == content(list(load().batches(0, STEPS)))
    bad = sorted({record for batch in together for record in batch.bad}, key=lambda r: r.index)
    assert [record.index for record in bad] == list(BAD)
    assert bad[0].fault.startswith("memory, image 3: ")
    assert bad[3].fault == "memory, image 29: no record starts there"


def test_a_run_that_starts_later_takes_the_same_replacements() -> None:
    assert content(list(load().batches(4, STEPS))) == content(list(load().batches(0, STEPS))[4:])


def test_other_errors_are_not_skipped() -> None:
    dataset = MemoryDataset(errors={7: RuntimeError("a bug at sample 7")})
    with pytest.raises(RuntimeError, match="a bug at sample 7"):
        list(load(dataset).batches(0, STEPS))


def test_a_bad_record_stops_the_run_by_default() -> None:
    loader = load(replacement_seed=None)
    with pytest.raises(ValueError, match=r"memory, image \d+: "):
        list(loader.batches(0, STEPS))
    assert loader.report(STEPS) == {}


@pytest.mark.parametrize("workers", [1, 2])
def test_a_dataset_without_good_samples_is_refused(workers: int) -> None:
    loader = load(MemoryDataset([b"\xff\xd8 no image"] * 30), workers=workers)
    first = loader.spec(0, 0).indices[0]
    with pytest.raises(BadRecordsError, match=rf"^memory, image {first}: .* 100 .*image \d+: "):
        next(loader.batches(0, 1))


def test_different_bad_records_count_as_their_batches_are_delivered() -> None:
    loader = load(max_bad_share=0.5, prefetch=8)
    batches = loader.batches(0, STEPS)
    assert loader.report(0) == {"bad_records": 0}
    met = {record.index for batch in islice(batches, 2) for record in batch.bad}
    assert 0 < len(met) < len(BAD)
    assert loader.report(2) == {"bad_records": len(met)}
    for _ in batches:
        pass
    assert loader.report(STEPS) == {"bad_records": len(BAD)}


def record(index: int) -> BadRecord:
    return BadRecord(index, f"a.rec, key {index}, offset {40 * index}: damaged")


@pytest.mark.parametrize(
    ("num_samples", "max_share", "seen", "most"),
    [
        (1_000_000, 0.001, 10, TOLERATED),  # one of the first ten says little about the dataset
        (1_000_000, 0.001, 10_000, 10),
        (1_000_000, 0.001, 50_000, 50),
        (1_000_000, 0.001, 5_000_000, 1000),  # in the fifth epoch
        (3000, 0.001, 100, 3),  # more are too many for the whole dataset
        (300, 0.001, 300, 0),
        (91, 0.05, 21, 4),
        (91, 1.0, 91, 91),
    ],
)
def test_too_many_bad_records_stop_the_run(
    num_samples: int, max_share: float, seen: int, most: int
) -> None:
    records = BadRecords(num_samples, max_share)
    for _ in range(3):
        records.add(record(index) for index in range(most))
        assert records.agree(seen) == most
    assert records.agree(seen) == most
    if most < num_samples:
        records.add([record(num_samples - 1)])
        values = (
            rf"^{most + 1} of {min(seen, num_samples)} .*max_bad_share {max_share:g} .*"
            rf"a\.rec, key {num_samples - 1}, offset"
        )
        with pytest.raises(BadRecordsError, match=values):
            records.agree(seen)


def test_each_record_is_logged_once_up_to_a_limit(caplog: pytest.LogCaptureFixture) -> None:
    records = BadRecords(1000, 1.0)
    for count in (3, 3, MAX_LINES, MAX_LINES + 1, 10 * MAX_LINES):
        records.add(record(index) for index in range(count))
        records.agree(1000)
    *listed, last = caplog.messages
    assert len(listed) == MAX_LINES
    for index, line in enumerate(listed):
        assert line.endswith(f": a.rec, key {index}, offset {40 * index}: damaged")
    assert "a.rec" not in last, "the rest is announced once"


def test_a_restored_count_continues(caplog: pytest.LogCaptureFixture) -> None:
    one, other = load(max_bad_share=0.5), load(max_bad_share=0.5)
    for _ in one.batches(0, 2):
        pass
    before = one.report(2)["bad_records"]
    assert 0 < before < len(BAD)
    state = json.loads(json.dumps(one.state()))
    caplog.clear()
    other.restore(state)
    assert other.report(2) == {"bad_records": before}
    for _ in other.batches(2, STEPS):
        pass
    assert other.report(STEPS) == {"bad_records": len(BAD)}
    assert len(caplog.records) == len(BAD) - before
    assert other.state() == {"bad_records": list(BAD)}


def test_a_lower_share_counts_from_the_first_report_after_a_resume() -> None:
    records = BadRecords(10_000, 0.001)
    records.restore([7, 45, 46])
    assert records.agree(2000) == 3
    stricter = BadRecords(10_000, 0.0002)
    stricter.restore(records.state())
    with pytest.raises(BadRecordsError, match=r"^3 of 2000 .*max_bad_share 0\.0002 .*image 7 "):
        stricter.agree(2000)


def test_a_class_sampler_sees_at_most_as_many_different_samples_as_are_counted() -> None:
    labels = np.repeat([0, 1, 2], [1, 4, 25])
    order = ClassBalancedOrder(labels, seed=3)
    for samples in (3, 9, 30, 90):
        seen = len(np.unique(order.order(0, samples)[0]))
        assert seen == sum(min(samples // 3, count) for count in (1, 4, 25))
        assert seen <= min(samples, 30)


def _agree_on_two_ranks() -> tuple[list[int], list[str], str]:
    rank = torch.distributed.get_rank()
    lines: list[str] = []

    def keep(line: logging.LogRecord) -> bool:
        lines.append(line.getMessage())
        return False

    logger = logging.getLogger("data.loading.bad_records")
    logger.addFilter(keep)
    records = BadRecords(10_000, 0.001)
    counts = [records.agree(0)]
    records.add([record(5), record(6 + rank)])
    counts.append(records.agree(100))
    records.add([record(6)])
    counts.append(records.agree(200))
    if rank == 1:
        records.add(record(index) for index in range(20, 28))
    try:
        records.agree(300)
    except BadRecordsError as error:
        return counts, lines, str(error)
    raise AssertionError("11 of 10,000 are more than 0.001")


@pytest.mark.slow
def test_ranks_agree_and_rank_0_logs() -> None:
    first, second = run_ranks(_agree_on_two_ranks, 2)
    assert first[0] == second[0] == [0, 3, 3]
    assert len(first[1]) == 11
    assert second[1] == []
    assert first[2] == second[2]
    assert first[2].startswith("11 of 300 ")


@pytest.mark.parametrize("max_share", [0.0, -0.1, 1.5, float("nan")])
def test_a_fraction_out_of_range_is_refused(max_share: float) -> None:
    with pytest.raises(ValueError, match=f"max_bad_share is {max_share}"):
        load(max_bad_share=max_share)
