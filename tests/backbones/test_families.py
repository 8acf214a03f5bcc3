"""Tests of `backbones.families`, against the networks that other projects describe."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from backbones import build_backbone, build_for_weights, load_weights, read_weights

SIZE, EMBEDDING = 32, 16


class Block(nn.Module):
    """A block of an IR network, with the names of AdaFace's files."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.shortcut_layer: nn.Module = nn.MaxPool2d(1, stride)
        if channels != width:
            self.shortcut_layer = nn.Sequential(
                nn.Conv2d(channels, width, 1, stride, bias=False), nn.BatchNorm2d(width)
            )
        self.res_layer = nn.Sequential(
            nn.BatchNorm2d(channels),
            nn.Conv2d(channels, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.PReLU(width),
            nn.Conv2d(width, width, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(width),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.res_layer(x) + self.shortcut_layer(x)
        return out


def ir_network(blocks: Sequence[int]) -> nn.Module:
    """Return an IR network with batch norms that have seen something."""
    torch.manual_seed(0)
    body: list[nn.Module] = []
    channels = 64
    for width, count in zip((64, 128, 256, 512), blocks, strict=True):
        for number in range(count):
            body.append(Block(channels, width, 1 if number else 2))
            channels = width
    parts: dict[str, nn.Module] = {
        "input_layer": nn.Sequential(
            nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.PReLU(64)
        ),
        "body": nn.Sequential(*body),
        "output_layer": nn.Sequential(
            nn.BatchNorm2d(512), nn.Dropout(0.4), nn.Flatten(),
            nn.Linear(512 * (SIZE // 16) ** 2, EMBEDDING), nn.BatchNorm1d(EMBEDDING, affine=False),
        ),
    }  # fmt: skip
    network = nn.Sequential()
    for name, part in parts.items():
        network.add_module(name, part)
    network(torch.randn(4, 3, SIZE, SIZE))
    return network.eval()


@pytest.fixture(scope="module")
def network() -> nn.Module:
    return ir_network((2, 2, 2, 2))


@pytest.mark.parametrize(
    ("prefix", "other", "is_bgr"),
    [("model.", {"head.kernel": torch.ones(3, 4)}, True), ("net.", {}, False), ("", {}, True)],
)
def test_networks_of_other_projects_are_the_same_function(
    network: nn.Module, tmp_path: Path, caplog: pytest.LogCaptureFixture,
    prefix: str, other: dict[str, Tensor], is_bgr: bool,
) -> None:  # fmt: skip
    weights = {prefix + name: value for name, value in network.state_dict().items()}
    torch.save({"state_dict": {**weights, **other}}, tmp_path / "theirs.ckpt")
    with caplog.at_level("INFO"):
        name, found = build_for_weights(
            read_weights(tmp_path / "theirs.ckpt"), "theirs.ckpt", image_size=SIZE
        )
    assert name == "r18"
    assert any("CVLface" if prefix == "net." else "AdaFace" in m for m in caplog.messages)
    images = torch.randn(3, 3, SIZE, SIZE)
    with torch.no_grad():
        expected = network(images.flip(1) if is_bgr else images)
        difference = (found.eval()(images) - expected).norm() / expected.norm()
    assert difference < 1e-5  # float32 through 18 layers


def test_they_start_a_run_too(network: nn.Module) -> None:
    backbone = build_backbone("r18", image_size=SIZE, embedding_size=EMBEDDING)
    weights = {f"net.{name}": value for name, value in network.state_dict().items()}
    load_weights(backbone, weights, "theirs.pt")
    assert torch.equal(backbone.state_dict()["conv1.weight"], weights["net.input_layer.0.weight"])


def test_a_mismatch_says_what_the_file_looks_like(network: nn.Module) -> None:
    backbone = build_backbone("r34", image_size=SIZE, embedding_size=EMBEDDING)
    weights = {f"net.{name}": value for name, value in network.state_dict().items()}
    with pytest.raises(ValueError, match=r"labelled_ir34\.pt .* these are of r18"):
        load_weights(backbone, weights, "labelled_ir34.pt")
    squeeze = {**weights, "net.body.0.res_layer.5.fc1.weight": torch.ones(4, 64, 1, 1)}
    with pytest.raises(ValueError, match=r"se\.pt looks like a network of CVLface"):
        build_for_weights(squeeze, "se.pt")
    wide = {**weights, "net.body.0.res_layer.4.weight": torch.ones(256, 64, 1, 1)}
    with pytest.raises(ValueError, match=r"IR-152"):
        build_for_weights(wide, "ir152.pt")
    for name, words in (
        ("net.patch_embed.proj.weight", "ViT"),
        ("layer1.0.conv2.weight", "torchvision"),
        ("conv2d_1a.conv.weight", "facenet"),
    ):
        with pytest.raises(ValueError, match=rf"x\.pt .* look like .*{words}"):
            build_for_weights({name: torch.ones(1)}, "x.pt")


@pytest.mark.parametrize(
    "weights",
    [
        {},
        {"input_layer.0.weight": torch.zeros(64)},
        {"output_layer.3.bias": torch.zeros(())},
        {"body.0.res_layer.4.weight": torch.zeros(())},
        {"body.3.res_layer.1.weight": torch.zeros(4)},
    ],
    ids=str,
)
def test_what_is_missing_or_of_another_shape_is_called_that(weights: dict[str, Tensor]) -> None:
    found = {"input_layer.0.weight": torch.zeros(64, 3, 3, 3), **weights}
    message = r"x\.pt looks like a network of AdaFace, and layers are missing or of another shape: "
    with pytest.raises(ValueError, match=message):
        build_for_weights({f"model.{name}": tensor for name, tensor in found.items()}, "x.pt")
