from typing import Any

import pytest
import torch
from torch import nn

from recognition.optimizer import make_optimizer, reads_skip, state_tensors, update_parameters

OPTIONS: list[tuple[str, dict[str, Any]]] = [
    ("sgd", {"momentum": 0.9, "weight_decay": 0.01}),
    ("sgd", {"momentum": 0.9, "nesterov": True}),
    ("sgd", {"momentum": 0.0, "weight_decay": 0.01}),
    ("adamw", {"weight_decay": 0.1}),
]


def gradients(network: nn.Module, value: float | None = None) -> None:
    for parameter in network.parameters():
        parameter.grad = torch.randn_like(parameter) if value is None else parameter * 0 + value


@pytest.mark.parametrize(("name", "options"), OPTIONS, ids=str)
@pytest.mark.parametrize("good_steps", [0, 2])
def test_a_flag_on_the_device_keeps_every_bit(
    name: str, options: dict[str, Any], good_steps: int
) -> None:
    torch.manual_seed(0)
    skipping, other = nn.Linear(5, 3), nn.Linear(5, 3)
    other.load_state_dict(skipping.state_dict())
    pair = [
        (network, make_optimizer(name, network, fused=True, lr=0.1, **options))
        for network in (skipping, other)
    ]
    assert all(reads_skip(optimizer) for _, optimizer in pair)
    for step in range(good_steps + 2):
        for network, optimizer in pair:
            torch.manual_seed(step)
            if step == good_steps and network is skipping:
                gradients(network, torch.nan)
                update_parameters(optimizer, 0.1, skip=torch.tensor(True))
            gradients(network)
            update_parameters(optimizer, 0.1, skip=torch.tensor(False))
    for one, two in zip(skipping.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, two)
    state, expected = (state_tensors(*each) for each in pair)
    assert state.keys() == expected.keys()
    assert all(torch.equal(tensor, expected[key]) for key, tensor in state.items())


def test_the_plain_form_is_the_default_and_skips_by_the_host() -> None:
    network = nn.Linear(5, 3)
    optimizer = make_optimizer("sgd", network, lr=0.1, momentum=0.9)
    assert not reads_skip(optimizer)
    before = network.weight.detach().clone()
    gradients(network)
    update_parameters(optimizer, 0.2, skip=True)
    assert torch.equal(network.weight, before)
    update_parameters(optimizer, 0.2)
    assert network.weight.grad is not None
    torch.testing.assert_close(network.weight.detach(), before - 0.2 * network.weight.grad)


def test_the_fused_step_count_is_where_its_parameter_is() -> None:
    network = nn.Linear(5, 3, device="meta")
    for fused, device in ((True, "meta"), (False, "cpu")):
        optimizer = make_optimizer("adamw", network, fused=fused, lr=0.1)
        steps = {state["step"].device.type for state in optimizer.state.values()}
        assert steps == {device}
