import pytest
import torch
from torch import nn

from recognition.head import PartialFC, SeparateHeads, state_of, workspace_bytes
from recognition.telemetry import by_rank, memory_by_part, peak_memory_bytes
from recognition.telemetry.system import SHOWN_RANKS, _of_ranks
from tests.distributed_harness import run_ranks

CPU = torch.device("cpu")


def trained_head(classes: int) -> PartialFC:
    head = PartialFC(8, classes)
    head(torch.randn(4, 8, requires_grad=True), torch.arange(4)).loss.backward()
    head.step(0.1)
    return head


def test_memory_is_that_of_the_tensors_and_the_rest() -> None:
    network = nn.Linear(8, 8, bias=False)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    network(torch.randn(2, 8)).sum().backward()
    optimizer.step()
    head = trained_head(100)
    parts = memory_by_part(
        CPU, backbone=network, average=nn.Linear(8, 8, bias=False), optimizer=optimizer,
        head_state=state_of(head), head_workspace=workspace_bytes(head),
    )  # fmt: skip
    size = 8 * 8 * 4 / 2**30
    assert parts["backbone"] == 2 * size  # with its gradient
    assert parts["optimizer"] == parts["average"] == size
    assert parts["head_state"] >= 2 * 100 * 8 * 4 / 2**30  # with its momentum
    assert parts["head_workspace"] > 0
    assert sum(parts.values()) == pytest.approx(peak_memory_bytes(CPU) / 2**30, rel=0.01)


def test_of_several_heads_it_is_the_sum() -> None:
    one, other = trained_head(10), trained_head(30)
    both = SeparateHeads({"a": one, "b": other})
    assert workspace_bytes(both) == workspace_bytes(one) + workspace_bytes(other)
    assert len(state_of(both)) == len(state_of(one)) + len(state_of(other))


def figures_of_a_rank() -> dict[str, dict[str, float]]:
    return by_rank({"wait": 0.5 + torch.distributed.get_rank()})


@pytest.mark.slow
def test_every_rank_has_a_figure_of_its_own() -> None:
    assert run_ranks(figures_of_a_rank, 2) == [{"wait_by_rank": {"0": 0.5, "1": 1.5}}] * 2


def test_of_very_many_ranks_three_figures_are_shown() -> None:
    assert by_rank({"wait": 0.5}) == {"wait_by_rank": {"0": 0.5}}
    values = [float(rank) for rank in range(SHOWN_RANKS + 1)]
    assert _of_ranks(values) == {"least": 0.0, "mean": SHOWN_RANKS / 2, "most": SHOWN_RANKS}
