"""The options of all backbones."""

from typing import Any

import pytest
import torch

from backbones import build_backbone

SMALL = ("r18", "mbf", "rtiny")


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("image_size", [16, 33, 112])
def test_any_image_size(name: str, image_size: int) -> None:
    backbone = build_backbone(name, embedding_size=24, image_size=image_size)
    embeddings = backbone(torch.randn(2, 3, image_size, image_size))
    assert embeddings.shape == (2, 24)


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_embeddings_are_float32_under_autocast(name: str) -> None:
    backbone = build_backbone(name, embedding_size=24, image_size=32).train()
    with torch.autocast("cpu", torch.bfloat16):
        embeddings = backbone(torch.randn(4, 3, 32, 32))
    assert embeddings.dtype == torch.float32
    embeddings.square().mean().backward()
    assert all(p.grad is not None for p in backbone.parameters() if p.requires_grad)


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_dropout_acts_in_training_only(name: str) -> None:
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


@pytest.mark.parametrize("name", ["r18", "rtiny"])
def test_the_scale_of_the_last_layer_is_not_trained(name: str) -> None:
    with torch.device("meta"):
        trained = {n for n, p in build_backbone(name).named_parameters() if p.requires_grad}
    assert "features.bias" in trained
    assert "features.weight" not in trained


@pytest.mark.parametrize(
    ("name", "options", "values"),
    [
        ("r51", {}, "'r51'.* r18, r34, r50"),
        ("r18", {"embedding_size": 0}, r"embedding_size is 0\b.* 1 "),
        ("r18", {"image_size": 15}, "image_size is 15.* 16 "),
        ("r18", {"dropout": 1.0}, "dropout is 1.0.* < 1"),
    ],
)
def test_invalid_options_are_refused(name: str, options: dict[str, Any], values: str) -> None:
    with pytest.raises(ValueError, match=values):
        build_backbone(name, **options)
