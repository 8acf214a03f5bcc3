import re
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from data.augmentations.augment import PROBABILITIES
from data.records.writer import write_face_records
from scripts.show_augmentations import main

CONFIG = """
output: runs/x
seed: 3
data: {train: datasets/x, image_size: 48, augment: {blur: 0.2, jpeg: 0.1, jpeg_quality: [5, 9]}}
train: {global_batch_size: 64, epochs: 2}
"""


@pytest.fixture
def records(tmp_path: Path) -> Path:
    """Twelve even pictures of side 112, darker and darker, with a bright left half."""
    images = np.zeros((12, 112, 112, 3), np.uint8)
    images += np.arange(96, 0, -8, dtype=np.uint8)[:, None, None, None]
    images[:, :, :56] += 128
    encoded = [simplejpeg.encode_jpeg(image, quality=95) for image in images]
    write_face_records(tmp_path, ((i // 2, data) for i, data in enumerate(encoded)))
    return tmp_path


def _cell(path: Path, row: int, column: int) -> NDArray[np.int64]:
    """Return one picture of a grid, without the names on the left and the gaps between."""
    with Image.open(path) as image:
        pixels = np.asarray(image)
    top, left = row * 116, 130 + column * 116
    return pixels[top : top + 112, left : left + 112].astype(np.int64)


def test_a_row_is_drawn_for_every_operation(
    records: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = records / "grid.png"
    assert main([str(records), str(path), "--samples", "6"]) == 0
    with Image.open(path) as image:
        assert image.size == (130 + 6 * 116, (len(PROBABILITIES) + 2) * 116)
    assert ", ".join(PROBABILITIES) in capsys.readouterr().out
    for column in range(6):
        plain = _cell(path, 0, column)
        assert abs(plain[50, 100] - (96 - 16 * column)).max() <= 2, "evenly over the dataset"
        assert np.array_equal(_cell(path, 1, column), plain[:, ::-1])


def test_a_config_selects_what_is_drawn(records: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (records / "c.yaml").write_text(CONFIG)
    arguments = [str(records), str(records / "grid.png"), "--config", str(records / "c.yaml")]
    assert main([*arguments, "--set", "data.augment.flip=0", "--samples", "2"]) == 0
    assert "as it is, blur, jpeg, all together" in capsys.readouterr().out
    with Image.open(records / "grid.png") as image:
        assert image.size == (130 + 2 * 52, 4 * 52)


@pytest.mark.slow
def test_epochs_differ(records: Path) -> None:
    for epoch in ("0", "1"):
        assert main([str(records), str(records / f"{epoch}.png"), "--epoch", epoch]) == 0
    assert (records / "0.png").read_bytes() != (records / "1.png").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["{}", "{}/x.png", "--samples", "13"], "13 .* 1 to 12"),
        (["{}", "{}/x.png", "--samples", "0"], "0 .* 1 to 12"),
        (["{}/none", "{}/x.png"], "/none "),
        (["{}", "{}/x.png", "--config", "{}/none.yaml"], r"/none\.yaml"),
        (["{}", "{}/x.strange"], r"\.strange"),
    ],
)
def test_mistakes_are_named(
    records: Path, arguments: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([argument.format(records) for argument in arguments]) == 1
    assert re.search(f"error: .*{named}", capsys.readouterr().err)


def test_settings_need_a_config(records: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([str(records), "x.png", "--set", "data.augment.blur=1"])
    assert "--config" in capsys.readouterr().err.rpartition("error: ")[2]
