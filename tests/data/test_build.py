import re
import shlex
from pathlib import Path

import pytest
import torch

from data.build import build_dataset, build_loader, pack_hint
from data.datasets.dataset import open_dataset
from data.records.locations import Location
from data.tools.encoded_image import pixel_size
from recognition.config import Config, Data
from recognition.distributed import World
from scripts import pack_records, unpack_records
from tests.data.image_samples import people

TOOLS = {"scripts/pack_records.py": pack_records, "scripts/unpack_records.py": unpack_records}


@pytest.fixture(autouse=True)
def one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let packing decode in one process: each takes a second to start."""
    monkeypatch.setattr("data.tools.pack.usable_cores", lambda: 1)


def follow(advice: str) -> list[Path]:
    """Run the commands of a hint; return what `data.train` is to be set to."""
    match = re.search(r"(python scripts/.*); then set data\.train: \[?([^\]]*)", advice)
    assert match is not None
    for command in match[1].split(" && "):
        python, tool, *arguments = shlex.split(command)
        assert python == "python"
        assert TOOLS[tool].main(arguments) == 0
    return [Path(name) for name in match[2].split(", ")]


def test_large_images_are_to_be_packed_at_the_size_of_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    people(tmp_path / "my photos", {"ann": 2, "bob": 3}, size=240)
    config = Config.model_validate(
        {
            "data": {"train": "my photos", "image_size": 112},
            "backbone": {"name": "rtiny"},
            "train": {"steps": 1, "global_batch_size": 4},
            "output": "out",
        }
    )
    dataset = build_dataset(config.data, World())
    loader = build_loader(config, dataset, World(), torch.device("cpu"))
    assert len(list(loader.batches(0, 2))) == 2
    hint = loader.hint()
    assert "240x240" in hint
    assert follow(hint) == [Path("my photos-112")]
    packed = open_dataset(Path("my photos-112"))
    assert packed.labels.tolist() == dataset.labels.tolist()
    assert {pixel_size(packed.encoded(index)) for index in range(5)} == {(112, 112)}


def test_made_up_identities_are_loaded_as_any_dataset() -> None:
    settings = {"synthetic": {"identities": 300, "images": 900, "seed": 4}, "image_size": 24}
    config = Config.model_validate(
        {"data": settings, "train": {"steps": 1, "global_batch_size": 4}, "output": "out"}
    )
    dataset = build_dataset(config.data, World())
    loader = build_loader(config, dataset, World(), torch.device("cpu"))
    (batch,) = loader.batches(7, 8)
    assert batch.images.shape == (4, 3, 24, 24)
    assert batch.labels.tolist() == dataset.labels[batch.indices].tolist()
    assert (len(dataset), dataset.num_classes) == (900, 300)
    with pytest.raises(ValueError, match=r"num_classes is 7 .* has 300"):
        build_dataset(config.data.model_copy(update={"num_classes": 7}), World())


def test_every_kind_of_data_gets_its_commands(tmp_path: Path) -> None:
    people(tmp_path / "a", {"ann": 2, "bob": 1}, size=30)
    (tmp_path / "b.csv").write_text("ann/000.jpg,4\nbob/000.jpg,7\n")
    assert pack_records.main([f"{tmp_path}/a", f"{tmp_path}/c"]) == 0
    locations: list[Location] = [tmp_path / "a", tmp_path / "b.csv", tmp_path / "c"]
    settings = Data(train=locations, image_size=16, list_root=tmp_path / "a", remap_labels=True)
    packed = follow(pack_hint(settings))
    assert packed == [tmp_path / name for name in ("a-16", "b-16", "c-16")]
    before = open_dataset(locations, list_root=tmp_path / "a", remap_labels=True)
    after = open_dataset(packed)
    assert after.labels.tolist() == before.labels.tolist() == [0, 0, 1, 2, 3, 4, 4, 5]


def test_without_a_command_that_keeps_the_classes_there_is_none(tmp_path: Path) -> None:
    url = Data(train="s3://bucket/train.rec", image_size=112)
    by_name = Data(train=[tmp_path / "a", tmp_path / "b"], merge="by_name", image_size=112)
    for settings in (url, by_name):
        assert "--size 112" in pack_hint(settings)
        assert "data.train" not in pack_hint(settings)
