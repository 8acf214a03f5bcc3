"""Tests of `recognition.inference.exported_model`."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from recognition.inference.exported_model import ExportedModel, ExportedModelError

CPU = torch.device("cpu")


class Means(nn.Module):
    """Returns the mean of each channel."""

    def forward(self, images: Tensor) -> Tensor:
        return images.mean(dim=(2, 3))


class Two(nn.Module):
    """Has two inputs."""

    def forward(self, images: Tensor, other: Tensor) -> Tensor:
        return images.mean(dim=(2, 3)) + other


class Maps(nn.Module):
    """Returns no embeddings."""

    def forward(self, images: Tensor) -> Tensor:
        return images[:, 0]


def write(path: Path, network: nn.Module, *inputs: Tensor, free: bool = True) -> Path:
    shapes = {0: torch.export.Dim("n", min=1, max=64)} if free else None
    program = torch.export.export(network, inputs, dynamic_shapes=(shapes,) * len(inputs))
    torch.export.save(program, path)
    return path


@pytest.mark.parametrize("free", [True, False])
def test_any_number_of_images(tmp_path: Path, free: bool) -> None:
    model = ExportedModel(
        write(tmp_path / "m.pt2", Means(), torch.ones(4, 3, 8, 8), free=free), CPU
    )
    assert model.image_size == 8
    for count in (1, 4, 7):
        images = torch.rand(count, 3, 8, 8)
        torch.testing.assert_close(model(images), images.mean(dim=(2, 3)))


def test_other_networks_are_refused(tmp_path: Path) -> None:
    images = torch.ones(2, 3, 8, 8)
    two = write(tmp_path / "two.pt2", Two(), images, torch.ones(2, 3))
    with pytest.raises(ExportedModelError, match=r"two\.pt2"):
        ExportedModel(two, CPU)
    maps = ExportedModel(write(tmp_path / "maps.pt2", Maps(), images), CPU)
    with pytest.raises(ExportedModelError, match=r"\[2, 8, 8\]"):
        maps(images)
    means = ExportedModel(write(tmp_path / "means.pt2", Means(), images), CPU)
    with pytest.raises(ExportedModelError, match=r"\[2, 3, 9, 9\]"):
        means(torch.ones(2, 3, 9, 9))
    damaged = tmp_path / "damaged.pt2"
    damaged.write_bytes(b"no program")
    for path in (damaged, tmp_path / "absent.pt2"):
        with pytest.raises(ExportedModelError, match=path.name):
            ExportedModel(path, CPU)
