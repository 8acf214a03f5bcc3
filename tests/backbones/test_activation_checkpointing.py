"""Activation checkpointing changes nothing but the use of memory."""

import pytest
import torch
from torch import Tensor, nn

from backbones import build_backbone

pytestmark = pytest.mark.slow


def one_step(name: str, recompute: bool, *, compiled: bool = False) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    backbone = build_backbone(
        name, image_size=32, embedding_size=16, dropout=0.2, activation_checkpointing=recompute
    ).train()
    run = torch.compile(backbone, backend="aot_eager") if compiled else backbone
    torch.manual_seed(1)
    embeddings = run(torch.randn(4, 3, 32, 32))
    embeddings[:, 0].sum().backward()
    return backbone, embeddings


def assert_same(found: nn.Module, expected: nn.Module) -> None:
    for (name, tensor), other in zip(
        found.state_dict().items(), expected.state_dict().values(), strict=True
    ):
        assert torch.equal(tensor, other), name
    for (name, parameter), twin in zip(
        found.named_parameters(), expected.parameters(), strict=True
    ):
        if parameter.requires_grad:
            assert parameter.grad is not None
            assert twin.grad is not None
            assert torch.equal(parameter.grad, twin.grad), name


@pytest.mark.parametrize("name", ["r18", "mbf", "rtiny"])
def test_equal_gradients_and_running_statistics(name: str) -> None:
    plain, expected = one_step(name, recompute=False)
    checkpointed, found = one_step(name, recompute=True)
    assert torch.equal(found, expected)
    assert_same(checkpointed, plain)


def test_works_under_compile() -> None:
    plain, expected = one_step("r18", recompute=False)
    checkpointed, found = one_step("r18", recompute=True, compiled=True)
    torch.testing.assert_close(found, expected)
    for name, buffer in plain.named_buffers():
        torch.testing.assert_close(checkpointed.get_buffer(name), buffer)


def test_fewer_activations_are_kept() -> None:
    def saved_bytes(recompute: bool) -> int:
        sizes: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            sizes[tensor.data_ptr()] = tensor.nbytes
            return tensor

        backbone = build_backbone("r18", image_size=64, activation_checkpointing=recompute)
        weights = {parameter.data_ptr() for parameter in backbone.parameters()}
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            embeddings = backbone(torch.randn(4, 3, 64, 64))
        assert embeddings.requires_grad
        return sum(size for pointer, size in sizes.items() if pointer not in weights)

    assert saved_bytes(recompute=True) < 0.5 * saved_bytes(recompute=False)
