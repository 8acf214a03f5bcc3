"""Weight files: which ones load, and what the errors say."""

from pathlib import Path

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


def test_a_file_without_weights_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "noise.pt").write_bytes(b"not a zip, not a pickle")
    for name in ("noise.pt", "missing.pt"):
        with pytest.raises(ValueError, match=name) as caught:
            read_weights(tmp_path / name)
        assert "\n" not in str(caught.value)
