"""Frozen and temporarily unchanged running statistics."""

import copy

import pytest
import torch
from torch import Tensor, nn

from backbones import build_backbone, freeze_batch_norm
from backbones.batch_norm import unchanged_running_statistics


def statistics(module: nn.Module) -> dict[str, Tensor]:
    return {name: buffer.clone() for name, buffer in module.named_buffers()}


def make_trained() -> nn.Module:
    torch.manual_seed(0)
    backbone = build_backbone("r18", image_size=16, embedding_size=8).train()
    backbone(torch.randn(8, 3, 16, 16))
    return backbone


@pytest.mark.slow
def test_frozen_statistics_do_not_change_in_training() -> None:
    backbone = make_trained()
    freeze_batch_norm(backbone)
    before = statistics(backbone)
    for _ in range(2):
        backbone.train()
        backbone(torch.randn(8, 3, 16, 16)).sum().backward()
    after = statistics(backbone)
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_frozen_embeddings_do_not_depend_on_the_rest_of_the_batch() -> None:
    backbone = make_trained().double()
    freeze_batch_norm(backbone)
    backbone.train()
    x = torch.randn(4, 3, 16, 16, dtype=torch.float64)
    torch.testing.assert_close(backbone(x)[:1], backbone(x[:1]))


@pytest.mark.slow
def test_a_copy_stays_frozen_and_its_weights_are_still_trained() -> None:
    backbone = make_trained()
    freeze_batch_norm(backbone)
    twin = copy.deepcopy(backbone).train()
    assert not twin.get_submodule("layer1.0.bn1").training
    twin(torch.randn(4, 3, 16, 16)).square().sum().backward()
    gradient = twin.get_parameter("layer1.0.bn1.weight").grad
    assert gradient is not None
    assert gradient.abs().max() > 0


def test_layers_of_other_classes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"'1' .*torch\.nn\..*BatchNorm2d"):
        freeze_batch_norm(nn.Sequential(nn.Identity(), nn.BatchNorm2d(3)))


def test_unchanged_statistics_are_restored_after_an_error() -> None:
    backbone = make_trained()
    before = statistics(backbone)
    x = torch.randn(8, 3, 16, 16)

    def run_and_fail() -> None:
        with unchanged_running_statistics(backbone):
            backbone(x)
            raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        run_and_fail()
    after = statistics(backbone)
    assert all(torch.equal(after[name], before[name]) for name in before)
    backbone(x)
    assert not torch.equal(statistics(backbone)["bn1.running_mean"], before["bn1.running_mean"])
