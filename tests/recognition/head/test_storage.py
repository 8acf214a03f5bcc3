"""Heads whose centres, and momenta, are kept in two bytes or one per number."""

from typing import Any

import pytest
import torch
from torch import Tensor

from recognition.head import PartialFC, RowSGD, build_loss
from recognition.head.kernels.block import Block
from recognition.head.kernels.cpu import CompiledOps
from recognition.head.kernels.reference import BlockOps
from recognition.head.kernels.workspace import Workspace
from recognition.head.online_softmax.update import has_kernels
from recognition.head.optim.history import StepHistory
from recognition.head.optim.rounding import RowNoise
from recognition.head.optim.row_optimizers import kept_as
from recognition.head.optim.storage import STORAGE, decode, encode, scale_name, zero_rows
from recognition.head.placement.build import create_table
from recognition.head.rows import RowSet

CLASSES, SIZE, SAMPLES = 83, 24, 9
DTYPES = {"bf16": torch.bfloat16, "int8": torch.int8}
storages = pytest.mark.parametrize("storage", ["bf16", "int8"])


def _head(storage: str, **options: Any) -> PartialFC:
    settings: dict[str, Any] = {"sample_rate": 0.3, "block_bytes": 20 * 12 * (SAMPLES + SIZE)}
    return PartialFC(SIZE, CLASSES, storage=storage, **(settings | options))


def _train(head: PartialFC, steps: range = range(3), lr: float = 0.1) -> list[Tensor]:
    """Return loss and gradient of the embeddings of each step, in two micro-batches."""
    found = []
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        x = torch.randn(SAMPLES, SIZE, generator=generator).requires_grad_()
        y = torch.randint(0, CLASSES, (SAMPLES,), generator=generator)
        for part in (slice(0, 6), slice(6, SAMPLES)):
            output = head(x[part], y[part])
            output.loss.backward()
        head.step(lr)
        assert x.grad is not None
        found += [output.loss.detach(), x.grad]
    return found


def _equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name


@storages
def test_state_is_kept_in_the_stored_form_and_nothing_else(storage: str) -> None:
    head = _head(storage)
    _train(head)
    state, rows = head.state_tensors(), head.state_rows()

    kinds = {name: (list(each.shape), each.dtype) for name, each in state.items()}
    stored = [CLASSES, SIZE], DTYPES[storage]
    scale = [CLASSES, 1], torch.float32
    scales = {"weight_scale": scale, "momentum_scale": scale} if storage == "int8" else {}
    assert kinds == {"weight": stored, "momentum": stored} | scales
    assert {name: (list(each.shape), each.dtype) for name, each in rows.items()} == kinds
    buffers = {name for name, _ in head.table.named_buffers()}
    assert buffers == state.keys()
    assert head.weight.dtype == torch.float32
    some = torch.tensor([80, 3])
    assert torch.equal(head.table.rows_of(some), head.weight[some])


@pytest.mark.parametrize(("storage", "size"), [("fp32", 4096), ("bf16", 2048), ("int8", 1032)])
def test_bytes_of_a_class(storage: str, size: int) -> None:
    head = PartialFC(512, 10, storage=storage)
    assert sum(tensor.nbytes for tensor in head.state_tensors().values()) == 10 * size


def test_momentum_can_be_kept_apart() -> None:
    head = _head("int8", optimizer=RowSGD(momentum_dtype=torch.bfloat16))
    assert head.state_tensors().keys() == {"weight", "weight_scale", "momentum"}
    assert head.state_tensors()["momentum"].dtype == torch.bfloat16
    apart = _head("fp32", optimizer=RowSGD(momentum_dtype=torch.int8))
    _train(apart)
    assert apart.state_tensors().keys() == {"weight", "momentum", "momentum_scale"}
    assert apart.state_tensors()["momentum"].any()


@pytest.mark.parametrize(
    ("storage", "momentum", "kernels"),
    [("fp32", None, True), ("fp32", "bf16", True), ("fp32", "int8", False),
     ("bf16", None, False), ("int8", "bf16", False)],
)  # fmt: skip
def test_triton_kernels_are_for_centres_in_float32(
    storage: str, momentum: str | None, kernels: bool
) -> None:
    optimizer = kept_as(storage, RowSGD(momentum_dtype=STORAGE[momentum] if momentum else None))
    assert has_kernels(torch.device("cuda"), storage, optimizer) == kernels
    assert has_kernels(torch.device("cpu"), storage, optimizer)


def test_an_unknown_storage_is_refused() -> None:
    with pytest.raises(ValueError, match=r"storage: 'int4'.*'bf16', 'fp32', 'int8'"):
        _head("int4")


def _in_float32(head: PartialFC, name: str) -> Tensor:
    """Return the weight or the momentum, in float32."""
    rows = head.state_tensors()
    scales = [rows[scale_name(name)]] if scale_name(name) in rows else []
    return decode(rows[name], *scales)


@storages
@pytest.mark.parametrize("options", [
    {"sampling": "all"},
    {"sampling": "importance"},
    {},
    {"optimizer": RowSGD(nesterov=True)},
    {"loss": build_loss("subcenter_arcface", k=2), "placement": "host"},
    {"placement": "host"},
    {"placement": "replicated"},
    {"matmul_dtype": torch.bfloat16},
], ids=str)  # fmt: skip
def test_a_step_is_that_of_fp32_from_the_same_state_rounded_once(
    storage: str, options: dict[str, Any]
) -> None:
    head, exact = _head(storage, **options), _head("fp32", **options)
    tolerance = 2.0**-7 if "matmul_dtype" in options else 2e-5
    for step in range(4):
        for name, rows in exact.state_rows().items():
            rows.write(0, _in_float32(head, name))
        expected = _train(exact, range(step, step + 1))
        for found, each in zip(_train(head, range(step, step + 1)), expected, strict=True):
            bound = tolerance * float(each.abs().max())
            torch.testing.assert_close(found, each, rtol=0, atol=bound)
        for name in ("weight", "momentum"):
            number, value = _in_float32(head, name), _in_float32(exact, name)
            largest = value.abs().amax(1, keepdim=True)
            grid = largest / 127 if storage == "int8" else 2.0**-7 * value.abs()
            assert ((number - value).abs() <= grid + tolerance * largest).all()


@storages
def test_frozen_rows_stay_as_they_are_to_the_bit(storage: str) -> None:
    head = _head(storage, update="frozen")
    _train(head, range(2))
    before = {name: tensor.clone() for name, tensor in head.state_tensors().items()}
    _train(head, range(2, 3))
    changed = torch.stack([
        (tensor != before[name]).flatten(1).any(1) for name, tensor in head.state_tensors().items()
    ]).any(0)  # fmt: skip
    assert 0.2 < changed.float().mean() < 0.6


@pytest.mark.parametrize("ops", [BlockOps(), CompiledOps()], ids=["torch", "compiled"])
@pytest.mark.parametrize("missed", [False, True])
@storages
def test_the_mean_of_many_updates_is_the_update(ops: BlockOps, missed: bool, storage: str) -> None:
    """From the same rows, in many steps; two of them are not finite."""
    rows, draws, index = 40, 256, torch.arange(3, 19)
    generator = torch.Generator().manual_seed(0)
    start = {"weight": torch.randn(rows, SIZE, generator=generator)}
    start["momentum"] = 0.1 * torch.randn(rows, SIZE, generator=generator)
    start["weight"][5, 2], start["momentum"][6, 3] = torch.nan, torch.inf
    tables: dict[str, Tensor] = {}
    for name, value in start.items():
        tables |= zero_rows(name, rows, SIZE, DTYPES[storage], "cpu")
        scale, scratch = tables.get(scale_name(name)), torch.empty_like(value)
        encode(value, RowNoise(0, 0, rows, tensor=name), tables[name], scale, scratch)
    gradient, sgd = torch.randn(16, SIZE, generator=generator), RowSGD(nesterov=missed)
    history = StepHistory(torch.device("cpu"))
    for lr in (0.1, 0.2):
        history.add(lr, sgd.coasting_matrix(lr))
    steps = history.missed(torch.arange(16) % 3) if missed else None

    def block_of(tensors: dict[str, Tensor]) -> Block:
        return Block(RowSet(16, index), 0, 16, tensors, index, Workspace(), missed=steps)

    def wide(tensors: dict[str, Tensor], name: str) -> Tensor:
        names = [each for each in (name, scale_name(name)) if each in tensors]
        return decode(*(tensors[each] for each in names)).double()

    exact = {name: wide(tables, name).float() for name in start}
    BlockOps().update_rows_sgd(block := block_of(exact), gradient.clone(), sgd, 0.1, None)
    block.write()
    total = {name: torch.zeros(rows, SIZE, dtype=torch.float64) for name in start}
    for step in range(draws):
        found = {name: tensor.clone() for name, tensor in tables.items()}
        noise = RowNoise(7, step, index)
        ops.update_rows_sgd(block := block_of(found), gradient.clone(), sgd, 0.1, noise)
        block.write(noise)
        for name in start:
            total[name] += wide(found, name) / draws
    untouched = torch.ones(rows, dtype=torch.bool).index_fill_(0, index, False)
    for name, mean in total.items():
        before, expected = wide(tables, name), exact[name].double()
        assert torch.equal(mean[untouched], before[untouched])
        finite = expected.isfinite().all(1)
        assert finite.logical_not().nonzero().flatten().tolist() == [5, 6]
        assert torch.equal(mean.isfinite().all(1), finite)
        largest = expected[finite].abs().amax(1, keepdim=True)
        grid = largest / 127 if storage == "int8" else 2.0**-7 * expected[finite].abs()
        # At most half a step of the grid is the standard deviation of one draw.
        error = (mean[finite] - expected[finite]).abs()
        assert (error <= 5 * 0.5 * grid / draws**0.5 + 1e-5 * largest).all()


@storages
def test_two_shards_round_as_one(storage: str) -> None:
    """A class gets the same bits from the same gradient, on whichever rank it is."""
    generator = torch.Generator().manual_seed(0)
    gradient = torch.randn(CLASSES, SIZE, generator=generator)
    optimizer = RowSGD(momentum_dtype=DTYPES[storage])
    found = []
    for shards in ([(0, 83)], [(0, 41), (41, 83)]):
        tables = [
            create_table(
                "sharded", shard, SIZE, seed=4, optimizer=optimizer, storage=storage,
                device=torch.device("cpu"), stage_bytes=0, halves=False,
            )
            for shard in shards
        ]  # fmt: skip
        for table, (first, last) in zip(tables, shards, strict=True):
            rows = RowSet(last - first)
            for block in table.iter_blocks(rows, rows.blocks(7), Workspace(), with_state=True):
                taken = range(first + block.start, first + block.stop)
                noise = RowNoise(4, 9, len(block), taken.start)
                CompiledOps().update_rows_sgd(block, gradient[taken].clone(), optimizer, 0.1, noise)
                block.write(noise)
        state = [table.tensors() for table in tables]
        found.append({name: torch.cat([each[name] for each in state]) for name in state[0]})
    _equal(*found)


def test_what_settles_is_rounded_with_other_bits_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    steps, noise = [], Block.noise

    def noise_seen(block: Block, seed: int, step: int, first_class: int) -> RowNoise | None:
        steps.append(step)
        return noise(block, seed, step, first_class)

    head = _head("bf16")
    monkeypatch.setattr(Block, "noise", noise_seen)
    for first in (0, 2, 4):
        _train(head, range(first, first + 2))
        head.settle()

    settled = {step for step in steps if step < 0}
    assert len(settled) == 3
    assert -1 not in settled  # the initial centres'


@storages
def test_a_resumed_head_goes_on_to_the_bit(storage: str) -> None:
    whole, first = _head(storage), _head(storage)
    _train(whole, range(3))
    whole.settle()  # as saving does
    expected = _train(whole, range(3, 6))
    _train(first, range(3))
    resumed = _head(storage)
    for name, rows in resumed.state_rows().items():
        rows.write(0, first.state_rows()[name].read(0, CLASSES).clone())
    resumed.step_count = first.step_count

    for a, b in zip(_train(resumed, range(3, 6)), expected, strict=True):
        assert torch.equal(a, b)
    _equal(resumed.state_tensors(), whole.state_tensors())


@storages
def test_initial_centres_are_those_of_fp32_rounded_in_any_shard(
    storage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact, whole = _head("fp32").weight, _head(storage)
    monkeypatch.setattr("recognition.head.placement.build._ROWS", 10)
    _equal(_head(storage).state_tensors(), whole.state_tensors())

    largest = exact.abs().amax(1, keepdim=True)
    assert ((whole.weight - exact).abs() <= largest / 127).all()
    assert abs((whole.weight - exact).mean()) < 5 * largest.mean() / 127 / exact.numel() ** 0.5
