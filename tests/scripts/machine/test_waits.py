import torch

from scripts.machine import waits
from tests.launch import ROOT


def _line(text: str) -> str:
    lines = (ROOT / "tests/scripts/machine/test_waits.py").read_text().splitlines()
    (number,) = [n for n, line in enumerate(lines, 1) if line.strip() == text]
    return f"tests/scripts/machine/test_waits.py:{number}"


def test_waits_are_counted_by_the_line_of_the_project_that_makes_them() -> None:
    x = torch.ones(3, requires_grad=True)
    with waits.watched(torch.device("cpu"))() as found:
        for _ in range(2):
            y = float(x.detach().sum())
        torch.autograd.backward((x * y).sum())
        (x > 0).nonzero()
    assert found == {_line("y = float(x.detach().sum())"): 2, _line("(x > 0).nonzero()"): 1}
    float(x.detach().sum())
    assert sum(found.values()) == 3  # not after the block
