from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from recognition.head.kernels.block import Block
from recognition.head.kernels.workspace import Workspace
from recognition.head.optim.rounding import RowNoise
from recognition.head.optim.row_optimizers import (
    RowAdamW,
    RowOptimizer,
    RowSGD,
    build_row_optimizer,
)
from recognition.head.rows import RowSet

LR = 0.1
OPTIMIZERS: list[RowOptimizer] = [
    RowSGD(0.9, 0.01),
    RowSGD(0.9, 0.01, nesterov=True),
    RowSGD(0.9, 0.0),
    RowSGD(0.0, 0.01),
    RowSGD(0.9, 0.01, momentum_dtype=torch.bfloat16),
    RowSGD(0.9, 0.01, nesterov=True, momentum_dtype=torch.bfloat16),
    RowAdamW(weight_decay=0.1),
]
Stock = Callable[[list[torch.nn.Parameter]], torch.optim.Optimizer]


def _stock(ours: RowOptimizer) -> Stock:
    """Return what makes the torch optimizer of the same settings."""
    if isinstance(ours, RowSGD):
        settings: dict[str, Any] = {"momentum": ours.momentum, "nesterov": ours.nesterov}
        return lambda rows: torch.optim.SGD(rows, lr=LR, weight_decay=ours.weight_decay, **settings)
    assert isinstance(ours, RowAdamW)
    betas = (ours.betas[0], ours.betas[1])
    return lambda rows: torch.optim.AdamW(
        rows, lr=LR, betas=betas, eps=ours.eps, weight_decay=ours.weight_decay
    )


def _problem(rows: int, width: int, steps: int) -> tuple[Tensor, list[Tensor]]:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(rows, width, generator=generator)
    return weight, [torch.randn(rows, width, generator=generator) for _ in range(steps)]


def _run(
    optimizer: RowOptimizer,
    weight: Tensor,
    gradients: list[Tensor],
    taken: list[Tensor] | None = None,
    block: int | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Update the rows `taken[step]` of a copy of `weight`, `block` rows at a time."""
    weight = weight.clone()
    state = optimizer.state(*weight.shape)
    for step, gradient in enumerate(gradients):
        index = torch.arange(len(weight)) if taken is None else taken[step]
        for part in torch.split(index, block or len(weight)):
            _update(optimizer, weight, state, gradient, RowNoise(seed=5, step=step, row=part))
    return weight, state


def _update(
    optimizer: RowOptimizer,
    weight: Tensor,
    state: dict[str, Tensor],
    gradient: Tensor,
    noise: RowNoise,
    lr: float = LR,
) -> None:
    """Update the rows of the noise, as the head does."""
    index = noise.class_id(weight.device)
    tensors = {"weight": weight, **state}
    block = Block(RowSet(len(index), index), 0, len(index), tensors, index, Workspace())
    optimizer.update(block.read("weight"), block.read_state(), gradient[index], lr)
    block.write(noise)


def _run_stock(
    stock: Stock,
    weight: Tensor,
    gradients: list[Tensor],
    taken: list[Tensor] | None = None,
) -> Tensor:
    """Do the same with a torch optimizer: each row is a parameter, which may have no gradient."""
    rows = [torch.nn.Parameter(row.clone()) for row in weight]
    optimizer = stock(rows)
    for step, gradient in enumerate(gradients):
        optimizer.zero_grad(set_to_none=True)
        for row in range(len(rows)) if taken is None else taken[step].tolist():
            rows[row].grad = gradient[row].to(weight.dtype)
        optimizer.step()
    return torch.stack([row.detach() for row in rows])


@pytest.mark.parametrize("optimizer", OPTIMIZERS[:4], ids=str)
def test_sgd_is_torch_sgd_to_the_last_bit(optimizer: RowOptimizer) -> None:
    weight, gradients = _problem(6, 37, steps=6)

    updated, _ = _run(optimizer, weight, gradients)

    assert torch.equal(updated, _run_stock(_stock(optimizer), weight, gradients))


@pytest.mark.parametrize("settings", [{}, {"betas": (0.0, 0.9), "eps": 1e-3}], ids=str)
def test_adamw_is_torch_adamw(settings: dict[str, Any]) -> None:
    optimizer = RowAdamW(**settings)
    weight, gradients = _problem(6, 37, steps=20)

    updated, state = _run(optimizer, weight, gradients)

    # Twenty steps of 0.1, each off by a few roundings of 6e-8.
    expected = _run_stock(_stock(optimizer), weight, gradients)
    torch.testing.assert_close(updated, expected, rtol=1e-6, atol=1e-6)
    assert state["steps"].tolist() == [[20]] * 6


def test_only_the_default_decay_differs_from_torch_adamw() -> None:
    stock = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))]).defaults
    ours = RowAdamW()

    assert (ours.betas, ours.eps) == (stock["betas"], stock["eps"])
    assert ours.weight_decay == 0.1


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=str)
def test_is_near_the_float64_optimizer(optimizer: RowOptimizer) -> None:
    weight, gradients = _problem(8, 37, steps=20)

    updated, _ = _run(optimizer, weight, gradients)

    expected = _run_stock(_stock(optimizer), weight.double(), gradients)
    rounded = isinstance(optimizer, RowSGD) and optimizer.momentum_dtype == torch.bfloat16
    # A velocity of up to 8 is off by up to 2^-5 per step in bfloat16, at random, and by 2^-22 in
    # float32.
    bound = 0.1 if rounded else 1e-5
    assert (updated - expected).abs().max() < bound
    assert (updated - weight).abs().max() > 1.0


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=str)
def test_a_row_depends_only_on_the_steps_in_which_it_was_taken(optimizer: RowOptimizer) -> None:
    weight, gradients = _problem(9, 16, steps=30)
    generator = torch.Generator().manual_seed(1)
    drawn = torch.rand(30, 9, generator=generator) < torch.linspace(0.0, 1.0, 9)
    taken = [row.nonzero().squeeze(1) for row in drawn]

    updated, state = _run(optimizer, weight, gradients, taken)

    expected = _run_stock(_stock(optimizer), weight, gradients, taken)
    rounded = isinstance(optimizer, RowSGD) and optimizer.momentum_dtype == torch.bfloat16
    bound = 0.1 if rounded else 1e-5
    torch.testing.assert_close(updated, expected, rtol=0, atol=bound)
    assert torch.equal(updated[0], weight[0])  # never taken
    assert all((value[0] == 0).all() for value in state.values())
    if "steps" in state:
        assert state["steps"].squeeze(1).tolist() == drawn.sum(0).tolist()


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=str)
def test_any_split_of_the_rows_gives_the_same_bits(optimizer: RowOptimizer) -> None:
    weight, gradients = _problem(41, 37, steps=4)
    whole, whole_state = _run(optimizer, weight, gradients)
    for block in (1, 7, 40):
        updated, state = _run(optimizer, weight, gradients, block=block)
        assert torch.equal(whole, updated)
        assert state.keys() == whole_state.keys()
        assert all(torch.equal(whole_state[name], state[name]) for name in state)


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=str)
def test_a_gradient_of_zero_decays_weight_and_state(optimizer: RowOptimizer) -> None:
    weight, gradients = _problem(4, 16, steps=1)
    gradients += [torch.zeros(4, 16)] * 5

    updated, state = _run(optimizer, weight, gradients)
    fresh, fresh_state = _run(RowSGD(0.9, 0.0), weight, [torch.zeros(4, 16)])

    expected = _run_stock(_stock(optimizer), weight, gradients)
    torch.testing.assert_close(updated, expected, rtol=0, atol=0.05)
    assert all(value.isfinite().all() for value in state.values())
    assert torch.equal(fresh, weight)
    assert (fresh_state["momentum"] == 0).all()


def test_a_fresh_row_of_adamw_stays_where_it_is_without_gradient_and_decay() -> None:
    weight, _ = _problem(4, 16, steps=0)

    updated, _ = _run(RowAdamW(weight_decay=0.0), weight, [torch.zeros(4, 16)] * 3)

    assert torch.equal(updated, weight)


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=str)
def test_state_starts_as_zeros_for_each_row(optimizer: RowOptimizer) -> None:
    state = optimizer.state(3, 4, "cpu")

    for value in state.values():
        assert len(value) == 3
        assert (value == 0).all()
    if isinstance(optimizer, RowSGD):
        shapes = {name: (list(value.shape), value.dtype) for name, value in state.items()}
        dtype = optimizer.momentum_dtype or torch.float32
        kept = {"momentum": ([3, 4], dtype)} if optimizer.momentum else {}
        assert shapes == kept


def _bfloat16_velocity(
    steps: int, momentum: float, gradient: float, start: float
) -> tuple[Tensor, Tensor]:
    """Return 16,384 bfloat16 velocities after `steps` equal steps, rounded both ways."""
    optimizer = RowSGD(momentum, 0.0, momentum_dtype=torch.bfloat16)
    weight = torch.zeros(128, 128)
    at_random = torch.full_like(weight, start, dtype=torch.bfloat16)
    to_nearest = at_random.clone()
    for step in range(steps):
        noise = RowNoise(seed=0, step=step, row=torch.arange(128))
        state = {"momentum": at_random}
        _update(optimizer, weight, state, torch.full_like(weight, gradient), noise, lr=0.0)
        to_nearest = (to_nearest.float() * momentum + gradient).bfloat16()
    return at_random.float(), to_nearest.float()


def test_steps_below_half_a_bit_move_a_bfloat16_velocity_on_average() -> None:
    # From 1 towards 0.001 / (1 − 0.9995) = 2. A step of at most 0.0005 is 1/16 of the last bit.
    at_random, to_nearest = _bfloat16_velocity(1000, momentum=0.9995, gradient=0.001, start=1.0)

    expected = 2.0 - 0.9995**1000
    assert (to_nearest == 1.0).all()
    # A velocity's variance is at most that of 1000 steps, 1/16 · 15/16 bits squared each: a
    # standard deviation of 7.7 bits of 2^-7, and the mean of 16,384 is known to 0.0005.
    assert abs(at_random.mean() - expected) < 5 * 0.0005
    assert at_random.std() > 0.01


def test_a_bfloat16_velocity_is_used_before_it_is_rounded() -> None:
    weight, gradients = _problem(8, 16, steps=1)
    in_full, _ = _run(RowSGD(0.9, 0.01), weight, gradients)

    halved, state = _run(RowSGD(0.9, 0.01, momentum_dtype=torch.bfloat16), weight, gradients)

    assert torch.equal(in_full, halved)
    velocity = gradients[0] + 0.01 * weight
    assert ((state["momentum"].float() - velocity).abs() <= velocity.abs() * 2**-7).all()


def test_a_bfloat16_velocity_is_the_same_each_time_and_new_each_step() -> None:
    optimizer = RowSGD(0.9, 0.0, momentum_dtype=torch.bfloat16)
    weight, gradients = _problem(8, 16, steps=3)
    _, first = _run(optimizer, weight, gradients)
    torch.manual_seed(1)
    _, again = _run(optimizer, weight, gradients)

    assert torch.equal(first["momentum"], again["momentum"])
    other = {}
    for step in (0, 1):
        state = optimizer.state(8, 16)
        noise = RowNoise(seed=5, step=step, row=torch.arange(8))
        _update(optimizer, weight.clone(), state, gradients[0], noise)
        other[step] = state["momentum"]
    assert not torch.equal(other[0], other[1])


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("sgd", {"momentum": 1.0}, "momentum: 1.0"),
        ("sgd", {"momentum": float("nan")}, "momentum: nan"),
        ("sgd", {"weight_decay": -1.0}, "weight_decay: -1.0"),
        ("sgd", {"momentum": 0.0, "nesterov": True}, "nesterov: true.*momentum 0"),
        ("sgd", {"momentum_dtype": torch.float16}, "momentum_dtype: torch.float16"),
        ("sgd", {"betas": (0.9, 0.99)}, r"'sgd'.*'betas'.*\['momentum', "),
        ("adamw", {"betas": (0.9,)}, r"betas: \(0.9,\) .*"),
        ("adamw", {"betas": (0.9, 1.0)}, r"betas\[1\]: 1.0"),
        ("adamw", {"eps": 0.0}, "eps: 0.0"),
        ("adamw", {"weight_decay": float("inf")}, "weight_decay: inf"),
        ("adam", {}, "row optimizer: 'adam' .*'adamw'"),
    ],
)
def test_unknown_and_unfit_settings_are_refused(
    name: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        build_row_optimizer(name, **options)


def test_are_built_by_name() -> None:
    assert build_row_optimizer("sgd", momentum=0.8) == RowSGD(0.8)
    assert build_row_optimizer("adamw", eps=1e-6) == RowAdamW(eps=1e-6)
