"""Weight files: which ones load, and what the errors say."""

from pathlib import Path
from typing import Any

import pytest
import torch

from backbones import build_backbone, build_for_weights, load_weights, read_weights


@pytest.mark.slow
def test_a_round_trip_finds_the_backbone(tmp_path: Path) -> None:
    saved = build_backbone("mbf", embedding_size=24)
    torch.save(saved.state_dict(), tmp_path / "backbone.pt")
    weights = read_weights(tmp_path / "backbone.pt")
    name, loaded = build_for_weights(weights, "backbone.pt")
    assert name == "mbf"
    x = torch.randn(1, 3, 112, 112)
    assert torch.equal(loaded.eval()(x), saved.eval()(x))


def test_a_different_embedding_size_is_reported_and_nothing_is_loaded() -> None:
    backbone = build_backbone("r18", image_size=16, embedding_size=8)
    other = build_backbone("r18", image_size=16, embedding_size=16).state_dict()
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    message = r"w\.pt .*fc\.weight \[16, 512\] .*\[8, 512\].*embedding_size is 16, expected 8;"
    with pytest.raises(ValueError, match=message):
        load_weights(backbone, other, "w.pt")
    assert all(torch.equal(backbone.state_dict()[name], before[name]) for name in before)


def test_weights_for_another_image_size_say_so() -> None:
    weights = build_backbone("rtiny", image_size=32, embedding_size=8).state_dict()
    with pytest.raises(ValueError, match=r"1 of another shape: fc\.weight .*--image-size"):
        build_for_weights(weights, "w.pt")


def test_differences_are_listed_and_counted() -> None:
    backbone = build_backbone("r18", image_size=16)
    weights = {f"module.{name}": value for name, value in backbone.state_dict().items()}
    message = r"w\.pt .*: conv1\.weight, bn1\.weight, bn1\.bias and \d+ .*: module\."
    with pytest.raises(ValueError, match=message):
        load_weights(backbone, weights, "w.pt")


def test_unknown_weights() -> None:
    with pytest.raises(ValueError, match=r"w\.pt .* r18, .* 1 .* a$"):
        build_for_weights({"a": torch.zeros(1)}, "w.pt")


@pytest.mark.parametrize(("content", "found"), [([1, 2], "list"), ({"epoch": 3}, "'epoch'.* int")])
def test_files_that_are_not_state_dicts(tmp_path: Path, content: object, found: str) -> None:
    path = tmp_path / "w.pt"
    torch.save(content, path)
    with pytest.raises(ValueError, match=rf"w\.pt .*{found}"):
        read_weights(path)


@pytest.mark.parametrize(
    ("prefix", "containers"),
    [
        ("", ["state_dict"]),
        ("", ["model"]),
        ("module.", []),
        ("backbone.", []),
        ("_orig_mod.", []),
        ("module._orig_mod.backbone.", ["model", "state_dict"]),
    ],
)
def test_weights_inside_other_checkpoints_are_found(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, prefix: str, containers: list[str]
) -> None:
    weights = build_backbone("rtiny", embedding_size=8, image_size=16).state_dict()
    content: dict[str, Any] = {prefix + name: value for name, value in weights.items()}
    for name in containers:
        content = {"epoch": 3, name: content, "arguments": Path("x")}
    torch.save(content, tmp_path / "w.pt")
    with caplog.at_level("INFO"):
        found = read_weights(tmp_path / "w.pt")
    assert list(found) == list(weights)
    assert all(torch.equal(found[name], weights[name]) for name in weights)
    (record,) = caplog.records
    assert all(word in record.getMessage() for word in ["w.pt", prefix, *containers])


def test_plain_weights_are_not_mentioned(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    torch.save({"a": torch.ones(1)}, tmp_path / "w.pt")
    with caplog.at_level("INFO"):
        read_weights(tmp_path / "w.pt")
    assert not caplog.records


def test_the_head_that_was_saved_with_a_backbone_is_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    names = ["module.backbone.a", "module.backbone.b", "module.head.weight"]
    torch.save({name: torch.ones(1) for name in names}, tmp_path / "w.pt")
    with caplog.at_level("INFO"):
        assert list(read_weights(tmp_path / "w.pt")) == ["a", "b"]
    assert "2 of 3" in caplog.text


def test_a_type_that_would_change_the_numbers_is_refused() -> None:
    backbone = build_backbone("rtiny", embedding_size=8, image_size=16)
    weights = dict(backbone.state_dict())
    name = next(iter(weights))
    with pytest.raises(ValueError, match=rf"{name} torch\.int8 .*torch\.float32"):
        load_weights(backbone, {**weights, name: weights[name].to(torch.int8)}, "w.pt")
