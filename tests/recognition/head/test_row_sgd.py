import pytest
import torch

from recognition.head.row_sgd import RowSGD


def test_is_torch_sgd_on_the_rows_it_gets() -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(6, 4, generator=generator)
    velocity = torch.zeros_like(weight)
    parameter = torch.nn.Parameter(weight.clone())
    stock = torch.optim.SGD([parameter], lr=0.1, momentum=0.9, weight_decay=0.01)
    for _ in range(4):
        gradient = torch.randn(6, 4, generator=generator)
        parameter.grad = gradient.clone()
        stock.step()
        RowSGD(0.9, 0.01).update(weight, velocity, gradient, 0.1)

    torch.testing.assert_close(weight, parameter.detach(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("momentum", "weight_decay", "message"),
    [(1.0, 0.0, "momentum: 1.0 found"), (0.9, -1.0, "weight_decay: -1.0 found")],
)
def test_settings_out_of_range_are_refused(
    momentum: float, weight_decay: float, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        RowSGD(momentum, weight_decay)
