"""`data.merge: separate` through the whole command."""

import json
from pathlib import Path

import pytest

from data.records.writer import write_face_records
from tests.conftest import picture
from tests.launch import train_well
from tests.test_train import SHORT, assert_same_steps, interrupted, metrics, tensors

pytestmark = pytest.mark.slow


def test_datasets_train_heads_of_their_own_and_resume_on_other_ranks(
    tiny_config: Path, tiny_data: Path, tmp_path: Path
) -> None:
    # So few images of the second that a batch of 11 often has none.
    few = ((number // 2, picture(100 + number // 2, number)) for number in range(6))
    (tmp_path / "few").mkdir()
    write_face_records(tmp_path / "few", few, image_size=32)
    data = f"{{train: [{tiny_data}, {tmp_path / 'few'}], merge: separate, loss_weights: [1, 0.5]}}"
    arguments = ["--config", str(tiny_config), *SHORT, "--set", "train.global_batch_size=11"]
    for setting in (
        f"data={data}", "data.image_size=32", "data.workers=1", "train.accumulation=2",
        "head.loss={name: curricularface, m: 0.2}",
    ):  # fmt: skip
        arguments += ["--set", setting]
    train_well(arguments)
    run, many = tmp_path / "run", tiny_data.name
    lines = metrics(run)
    assert any("loss/few" in line for line in lines)
    assert not all("loss/few" in line for line in lines)  # in some step it has no sample
    for line in lines:
        if "loss/few" not in line:
            assert line["loss"] == pytest.approx(line[f"loss/{many}"], rel=1e-5)
    mapping = json.loads((run / "classes.json").read_text())
    assert sorted(mapping[str(tmp_path / "few")].values()) == [13, 14, 15]

    before, whole = (tensors(run, step, tmp_path) for step in (2, 4))
    assert whole[f"head.{many}.weight"].shape == (13, 16)
    assert whole["head.few.momentum"].shape == (3, 16)
    assert whole["head.few.running"].shape == (1,)
    other = interrupted(run, 2, tmp_path / "other")
    train_well([*arguments, "--output", str(other), "--resume", "auto"], ranks=2)
    assert_same_steps(tensors(other, 4, tmp_path), whole, before)
    for one, resumed in zip(metrics(run), metrics(other), strict=True):
        assert one["active_classes"] == resumed["active_classes"]
        assert one.keys() == resumed.keys()
