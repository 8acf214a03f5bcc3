"""Tests of `recognition.head.published_centres`."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from recognition.build import initial_centres
from recognition.config_file import load_config
from recognition.head import PartialFC
from recognition.head.published_centres import CentresError, PublishedCentres
from tests.distributed_harness import run_ranks

CLASSES, SIZE = 11, 8


def write_parts(folder: Path, *counts: int, form: str = "softmax_fc_gpu_{}.pt") -> Tensor:
    """Write the files of a head and return all of its centres."""
    folder.mkdir(exist_ok=True)
    weight = torch.randn(sum(counts), SIZE, generator=torch.Generator().manual_seed(0))
    for number, part in enumerate(torch.split(weight, list(counts))):
        is_state_dict = form.startswith("softmax")
        content = {"weight": part.clone()} if is_state_dict else part.clone()
        torch.save(content, folder / form.format(number))
    return weight


def _loaded(folder: Path, placement: str, storage: str) -> tuple[tuple[int, int], Tensor]:
    head = PartialFC(SIZE, CLASSES, placement=placement, storage=storage, seed=3)
    PublishedCentres.open(folder).load(head, 3)
    return head.shard, head.weight.clone()


@pytest.mark.slow
def test_files_of_other_gpus_load_onto_the_ranks(tmp_path: Path) -> None:
    expected = write_parts(tmp_path, 3, 3, 3, 2)
    for (start, stop), weight in run_ranks(_loaded, 3, tmp_path, "sharded", "fp32"):
        assert torch.equal(weight, expected[start:stop])


@pytest.mark.parametrize("placement", ["sharded", "host"])
def test_every_form_of_table_takes_them(tmp_path: Path, placement: str) -> None:
    expected = write_parts(tmp_path, 6, 5, form="rank_{}_softmax_weight.pt")
    assert torch.equal(_loaded(tmp_path, placement, "fp32")[1], expected)
    assert (_loaded(tmp_path, placement, "bf16")[1] - expected).abs().max() < 2**-7 * 4
    # A step of int8 is the largest number of a row over 127.
    assert (_loaded(tmp_path, placement, "int8")[1] - expected).abs().max() < 4 / 127


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CentresError, match="no class centres"):
        PublishedCentres.open(tmp_path)
    folder = tmp_path / "head"
    write_parts(folder, 4, 4, 3)
    centres = PublishedCentres.open(folder)
    assert (centres.classes, centres.counts, centres.size) == (11, (4, 4, 3), 8)
    with pytest.raises(CentresError, match="11 classes of 8 numbers in 3 files, expected 12 of 8"):
        centres.check(12, 8)
    (folder / "softmax_fc_gpu_1.pt").unlink()
    with pytest.raises(CentresError, match="not 1"):
        PublishedCentres.open(folder)
    torch.save({"kernel": torch.ones(1)}, folder / "softmax_fc_gpu_1.pt")
    with pytest.raises(CentresError, match=r"softmax_fc_gpu_1\.pt .*kernel"):
        PublishedCentres.open(folder)
    torch.save({"weight": torch.ones(3, 9)}, folder / "softmax_fc_gpu_1.pt")
    with pytest.raises(CentresError, match=r"\[3, 9\]"):
        PublishedCentres.open(folder)
    (folder / "softmax_fc_gpu_1.pt").write_bytes(b"PK\x03\x04")
    with pytest.raises(CentresError, match="damaged"):
        PublishedCentres.open(folder)


def test_a_config_names_them(tmp_path: Path) -> None:
    write_parts(tmp_path, 6, 5)
    demo = Path(__file__).parents[3] / "configs" / "demo.yaml"
    settings = [f"head.init_from={tmp_path}", f"backbone.embedding_size={SIZE}"]
    config = load_config(demo, settings)
    centres = initial_centres(config, CLASSES)
    assert centres is not None
    assert centres.classes == CLASSES
    assert initial_centres(load_config(demo, settings[1:]), CLASSES) is None
    with pytest.raises(ValueError, match="expected 12 of 8"):
        initial_centres(config, CLASSES + 1)
    with pytest.raises(ValueError, match="separate"):
        initial_centres(config, {"a": 5, "b": 6})


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64])
def test_numbers_that_would_change_are_refused(tmp_path: Path, dtype: torch.dtype) -> None:
    torch.save({"weight": torch.ones(CLASSES, SIZE, dtype=dtype)}, tmp_path / "softmax_fc_gpu_0.pt")
    with pytest.raises(CentresError, match=rf"softmax_fc_gpu_0\.pt .*{dtype}, expected torch.fl"):
        _loaded(tmp_path, "sharded", "fp32")


@pytest.mark.parametrize("number", [float("nan"), float("inf"), 1e300])
def test_numbers_that_are_not_finite_are_refused(tmp_path: Path, number: float) -> None:
    weight = write_parts(tmp_path, 6, 5).double()[6:]
    weight[3, 1] = number
    torch.save({"weight": weight}, tmp_path / "softmax_fc_gpu_1.pt")
    with pytest.raises(CentresError, match=r"softmax_fc_gpu_1\.pt: .* class 9 is not finite"):
        _loaded(tmp_path, "sharded", "fp32")


@pytest.mark.parametrize("number", [50_000_000, 10**20])
def test_missing_files_are_counted(tmp_path: Path, number: int) -> None:
    write_parts(tmp_path, 6, 5)
    (tmp_path / "softmax_fc_gpu_1.pt").rename(tmp_path / f"softmax_fc_gpu_{number}.pt")
    with pytest.raises(CentresError, match=f"but not 1, 2, 3 and {number - 4:,} more: "):
        PublishedCentres.open(tmp_path)
