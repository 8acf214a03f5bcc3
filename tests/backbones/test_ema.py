from typing import Any

import pytest
import torch
from torch import nn

from backbones import WeightAverage, build_backbone


def moved(network: nn.Module, step: int) -> None:
    """Change all tensors as a step of training might."""
    generator = torch.Generator().manual_seed(step)
    with torch.no_grad():
        for tensor in (*network.parameters(), *network.buffers()):
            if tensor.is_floating_point():
                tensor += torch.randn(tensor.shape, generator=generator).to(tensor)
            else:
                tensor += 1


@pytest.mark.parametrize("decay", [0.05, 0.3, 0.999])
def test_the_average_is_the_sum_that_defines_it(decay: float) -> None:
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    average = WeightAverage(network, decay)
    states = [{name: tensor.double() for name, tensor in network.state_dict().items()}]
    for step in range(12):
        moved(network, step)
        average.update(step)
        states.append({name: tensor.double() for name, tensor in network.state_dict().items()})
    decays = [min(decay, (1 + t) / (10 + t)) for t in range(12)]
    for name, found in average.network.state_dict().items():
        if name.endswith("num_batches_tracked"):
            assert found == 12
            continue
        # Each state's weight: its own part, times every later decay.
        expected = torch.zeros_like(states[0][name])
        for t, state in enumerate(states):
            part = 1.0 if t == 0 else 1 - decays[t - 1]
            expected += state[name] * part * torch.tensor(decays[t:]).double().prod()
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)


def test_the_average_is_float32_and_changes_nothing_of_the_backbone() -> None:
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).bfloat16().train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    average = WeightAverage(network, 0.9)
    average.update(0)
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name])
    assert network.training
    assert all(tensor.requires_grad for tensor in network.parameters())
    assert not average.network.training
    for own in (*average.network.parameters(), *average.network.buffers()):
        assert own.dtype in (torch.float32, torch.int64)
        assert not own.requires_grad


def test_tensors_that_layers_share_are_averaged_once() -> None:
    first = nn.Linear(3, 3)
    network = nn.Sequential(first, first)
    average = WeightAverage(network, 0.5)
    with torch.no_grad():
        first.weight += 1
    before = average.network.state_dict()["0.weight"].clone()
    average.update(100)
    found = average.network.state_dict()
    torch.testing.assert_close(found["0.weight"], before + 0.5)
    assert torch.equal(found["0.weight"], found["1.weight"])


def test_an_update_is_in_place_and_keeps_the_memory_format() -> None:
    network = build_backbone("rtiny", embedding_size=16, image_size=32)
    network = network.to(memory_format=torch.channels_last)
    average = WeightAverage(network, 0.9)
    tensors = [*average.network.parameters(), *average.network.buffers()]
    places = [(tensor.data_ptr(), tensor.stride()) for tensor in tensors]
    average.update(3)
    again = [*average.network.parameters(), *average.network.buffers()]
    assert [(tensor.data_ptr(), tensor.stride()) for tensor in again] == places
    own = [(t.stride(), t.shape) for t in (*network.parameters(), *network.buffers())]
    assert own == [(t.stride(), t.shape) for t in again]


@pytest.mark.parametrize("decay", [0, 1, -0.5, 1.5, float("nan")])
def test_a_decay_that_averages_nothing_is_refused(decay: Any) -> None:
    with pytest.raises(ValueError, match=f"{decay}"):
        WeightAverage(nn.Linear(2, 2), decay)
