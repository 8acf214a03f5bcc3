"""Frozen and held running statistics."""

import copy

import pytest
import torch
from torch import Tensor, nn

from backbones import build_backbone, freeze_batch_norm
from backbones.batch_norm import running_statistics_held


def statistics(module: nn.Module) -> dict[str, Tensor]:
    return {name: buffer.clone() for name, buffer in module.named_buffers()}


def trained_a_little() -> nn.Module:
    torch.manual_seed(0)
    backbone = build_backbone("r18", image_size=16, embedding_size=8).train()
    backbone(torch.randn(8, 3, 16, 16))
    return backbone


def test_frozen_statistics_survive_train() -> None:
    backbone = trained_a_little()
    freeze_batch_norm(backbone)
    before = statistics(backbone)
    for _ in range(2):
        backbone.train()
        backbone(torch.randn(8, 3, 16, 16)).sum().backward()
    after = statistics(backbone)
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_frozen_embeddings_do_not_depend_on_the_rest_of_the_batch() -> None:
    backbone = trained_a_little().double()
    freeze_batch_norm(backbone)
    backbone.train()
    x = torch.randn(4, 3, 16, 16, dtype=torch.float64)
    torch.testing.assert_close(backbone(x)[:1], backbone(x[:1]))


def test_a_frozen_copy_stays_frozen_and_still_learns_its_affine_part() -> None:
    backbone = trained_a_little()
    freeze_batch_norm(backbone)
    twin = copy.deepcopy(backbone).train()
    assert not twin.get_submodule("layer1.0.bn1").training
    twin(torch.randn(4, 3, 16, 16)).square().sum().backward()
    gradient = twin.get_parameter("layer1.0.bn1.weight").grad
    assert gradient is not None
    assert gradient.abs().max() > 0


def test_foreign_layers_are_refused() -> None:
    with pytest.raises(ValueError, match=r"layer '1' is a torch\.nn\..*BatchNorm2d"):
        freeze_batch_norm(nn.Sequential(nn.Identity(), nn.BatchNorm2d(3)))


def test_held_statistics_come_back_after_an_error() -> None:
    backbone = trained_a_little()
    before = statistics(backbone)
    x = torch.randn(8, 3, 16, 16)

    def run_and_fail() -> None:
        with running_statistics_held(backbone):
            backbone(x)
            raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        run_and_fail()
    after = statistics(backbone)
    assert all(torch.equal(after[name], before[name]) for name in before)
    backbone(x)
    assert not torch.equal(statistics(backbone)["bn1.running_mean"], before["bn1.running_mean"])
