import json
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import torch

from data.pairs.bin_file import read_pair_file, write_pair_file
from scripts.benchmark_evaluation import main
from scripts.benchmarks.evaluation import images
from scripts.benchmarks.evaluation.ways import BARE, COMMAND, TRAINING
from tests.eval.suites.made_sets import photo

IMAGES = 24


def jpeg(number: int) -> bytes:
    """Bytes with a JPEG's start, which `unique_images` lengthens by a comment."""
    return b"\xff\xd8" + bytes([number])


def test_every_image_of_the_set_is_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Demo(list[bytes]):
        def encoded(self, index: int) -> bytes:
            return self[index]

    monkeypatch.setattr(images, "demo_dataset", lambda folder: Demo([jpeg(0), jpeg(1)]))
    pairs = read_pair_file(images.made_pairs(tmp_path, 40))
    assert len({bytes(image) for image in pairs.images}) == 40
    assert pairs.same.sum() == 10
    for count in (18, 41):
        with pytest.raises(ValueError, match=str(count)):
            images.made_pairs(tmp_path, count)


@pytest.mark.slow
def test_every_way_is_measured_beside_the_bare_loop(tmp_path: Path) -> None:
    faces = [photo(number // 2, number % 2) for number in range(IMAGES)]
    same = [pair % 2 == 0 for pair in range(IMAGES // 2)]
    write_pair_file(tmp_path / f"pairs_{IMAGES}.bin", faces, same)
    figures, page = tmp_path / "figures.json", tmp_path / "evaluation.md"
    arguments = ["--folder", tmp_path, "--images", IMAGES, "--backbones", "rtiny", "--rounds", 2]
    arguments += ["--precisions", "fp32", "bf16", "--batch-size", 10, "--replicates", 5]
    arguments += ["--device", "cpu", "--json", figures, "--markdown", page]
    assert main([str(one) for one in arguments]) == 0
    report: dict[str, Any] = json.loads(figures.read_text())
    rows = {(row["precision"], row["way"]): row for row in report["rows"]}
    assert list(rows) == [
        ("fp32", BARE), ("fp32", TRAINING), ("fp32", COMMAND), ("bf16", BARE), ("bf16", TRAINING)
    ]  # fmt: skip
    for (precision, _), row in rows.items():
        bare = [one["all"] for one in rows[precision, BARE]["rounds"]]
        taken = [one["all"] for one in row["rounds"]]
        assert row["ratio"] == pytest.approx(
            median(a / b for a, b in zip(taken, bare, strict=True))
        )
        assert row["cpu_ratio"] > 0
        assert row["images_per_second"] == pytest.approx(IMAGES / median(taken))
    for one in rows["fp32", COMMAND]["rounds"]:
        assert 0 < one["opening"] + one["embedding"] + one["figures"] <= one["all"]
    assert f"{rows['fp32', TRAINING]['ratio']:.3f}" in page.read_text()
    assert torch.is_grad_enabled()
