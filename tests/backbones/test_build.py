"""Options that every backbone takes."""

from typing import Any

import pytest
import torch

from backbones import build_backbone

SMALL = ("r18", "mbf", "rtiny")


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("image_size", [16, 33, 112])
def test_any_size(name: str, image_size: int) -> None:
    backbone = build_backbone(name, embedding_size=24, image_size=image_size)
    embeddings = backbone(torch.randn(2, 3, image_size, image_size))
    assert embeddings.shape == (2, 24)


@pytest.mark.parametrize("name", SMALL)
def test_embeddings_are_float32_under_autocast(name: str) -> None:
    backbone = build_backbone(name, embedding_size=24, image_size=32).train()
    with torch.autocast("cpu", torch.bfloat16):
        embeddings = backbone(torch.randn(4, 3, 32, 32))
    assert embeddings.dtype == torch.float32
    embeddings.square().mean().backward()
    assert all(p.grad is not None for p in backbone.parameters() if p.requires_grad)


@pytest.mark.parametrize("name", SMALL)
def test_dropout_acts_in_training_alone(name: str) -> None:
    torch.manual_seed(0)
    backbone = build_backbone(name, dropout=0.5, image_size=32, embedding_size=8).eval()
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(backbone(x), backbone(x))
    backbone.get_submodule("dropout").train()
    assert not torch.equal(backbone(x), backbone(x))


def test_published_initial_weights() -> None:
    torch.manual_seed(0)
    iresnet = build_backbone("r18").state_dict()
    assert iresnet["layer4.1.conv1.weight"].std().item() == pytest.approx(0.1, rel=0.01)
    mbf = build_backbone("mbf").state_dict()
    he = (2 / 512) ** 0.5
    assert mbf["conv_sep.layers.0.weight"].std().item() == pytest.approx(he, rel=0.01)


def test_the_last_scale_of_an_iresnet_is_not_learnt() -> None:
    with torch.device("meta"):
        learnt = {n for n, p in build_backbone("r18").named_parameters() if p.requires_grad}
    assert "features.bias" in learnt
    assert "features.weight" not in learnt


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("r51", {}, "backbone 'r51' is not known: expected one of r18, r34, r50"),
        ("r18", {"embedding_size": 0}, "embedding_size is 0: expected 1 or more"),
        ("r18", {"image_size": 15}, "image_size is 15: expected 16 or more"),
        ("r18", {"dropout": 1.0}, "dropout is 1.0: expected 0 <= dropout < 1"),
    ],
)
def test_refusals(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_backbone(name, **options)
