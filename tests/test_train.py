"""The whole command: learning, resuming on any number of ranks, what a run folder holds."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

from data.build import build_order, describe_order
from data.datasets.dataset import open_dataset
from data.order.class_orders import ClassBalancedOrder, PKOrder
from data.order.orders import BlockOrder, FileOrder, GlobalOrder, SampleOrder
from data.records.format import pack_record
from data.records.writer import RecordWriter, write_face_records
from recognition.build import build_head, run_identity
from recognition.config_file import load_config
from recognition.head.online_softmax.settings import BLOCK_BYTES, KEEP_BYTES
from recognition.plan import Plan
from recognition.precision import Precision
from tests.conftest import corrupt, picture
from tests.launch import train, train_well

pytestmark = pytest.mark.slow

PLAN = Plan(1.0, 40, 40, 40)
FROZEN = ("--set", "backbone.frozen_batch_norm=true")
# A few steps, each saved. Last bits that differ grow by an order of magnitude every few steps, on
# some processors faster than on others, so what sums in another order is compared at once.
SHORT = ("--set", "train.steps=4", "--set", "checkpoint.every_steps=1", *FROZEN)


def metrics(run: Path, event: str = "train") -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["event"] == event]


def tensors(run: Path, step: int, scratch: Path) -> dict[str, Tensor]:
    """Return every full tensor of a checkpoint by name."""
    folder = run / "checkpoints" / f"step_{step:08d}"
    dcp_to_torch_save(folder / "state", scratch / "state.pt")
    found: dict[str, Tensor] = torch.load(scratch / "state.pt")
    for file in folder.glob("*.pt"):
        weights = torch.load(file, weights_only=True)
        found |= {f"{file.stem}.{name}": tensor for name, tensor in weights.items()}
    return found


def assert_same_steps(
    found: dict[str, Tensor], expected: dict[str, Tensor], before: dict[str, Tensor]
) -> None:
    """Check that two runs changed the tensors of `before` alike, up to the order of fp32 sums.

    The allowed difference is 3% of what changed, in the norm of each tensor. Rounding alone makes
    1e-6 of it; but a ReLU whose input is within rounding of 0 may be on in one run and off in the
    other. The smallest layer of `rtiny` has 192 channels of 2 x 2 for each of at least 11 images,
    half of them on: one is 1 / sqrt(0.5 * 192 * 4 * 11) = 1.5% of the norm. Lost state, or a
    micro-batch with the weight of another, is at least 20%. What did not change must be equal.
    """
    assert found.keys() == expected.keys() == before.keys()
    for name, tensor in expected.items():
        changed = (tensor.double() - before[name].double()).norm()
        assert (found[name].double() - tensor.double()).norm() <= 0.03 * changed, name


def interrupted(run: Path, step: int, copy: Path) -> Path:
    """Return a copy of a run folder as if the power had failed after `step`."""
    shutil.copytree(run, copy)
    for folder in copy.glob("checkpoints/step_*"):
        if int(folder.name.removeprefix("step_")) > step:
            shutil.rmtree(folder)
    (copy / "checkpoints" / "step_00000099.partial").mkdir()
    return copy


def test_a_run_learns_and_its_folder_is_complete(tiny_config: Path, tmp_path: Path) -> None:
    averaging = ["--set", "train.ema=0.5", "--set", "checkpoint.best=ema/pairs/accuracy"]
    before = ["--set", "verification.before_training=true"]
    train_well(["--config", str(tiny_config), *before, *averaging])
    run = tmp_path / "run"
    lines = metrics(run)
    assert [line["step"] for line in lines] == list(range(1, 41))
    needed = {"step", "loss", "lr", "images_per_second", "data_wait", "cosine_positive"}
    assert needed <= lines[0].keys()
    assert lines[-1]["loss"] < 0.7 * lines[0]["loss"]
    assert lines[0]["memory"].keys() == {
        "backbone", "optimizer", "average", "head_state", "head_workspace", "rest",
    }  # fmt: skip
    assert lines[0]["active_classes_by_rank"] == {"0": lines[0]["active_classes"]}
    with_histograms = [line for line in lines if "histograms" in line]
    assert [line["step"] for line in with_histograms] == list(range(4, 41, 4))
    for histogram in with_histograms[0]["histograms"].values():
        assert sum(histogram["counts"]) == 21  # every sample of the step
    verified = metrics(run, "verification")
    assert [line["step"] for line in verified] == [0, 20, 40]
    assert sum(verified[0]["score_histogram"]["same"]) == verified[0]["pairs"] / 2
    assert verified[0]["set"] == "pairs"
    needed = {"accuracy", "accuracy_std", "threshold_cosine", "tar_at_far"}
    assert needed <= verified[0].keys()
    assert (run / "checkpoints" / "latest").read_text().strip() == "step_00000040"
    averaged = metrics(run, "verification_ema")
    assert [line["step"] for line in averaged] == [0, 20, 40]
    best = max(averaged[1:], key=lambda line: line["accuracy"])  # the first of equals
    assert (run / "checkpoints" / "best").read_text().strip() == f"step_{best['step']:08d}"
    assert (run / "tensorboard" / "projector_config.pbtxt").exists()
    assert "global_batch_size: 21" in (run / "config.yaml").read_text()
    log = (run / "log.txt").read_text()
    for found in ("before_training=true", torch.__version__, "rank 0 is process", "step 40/40"):
        assert found in log


def test_the_head_gets_the_stated_budgets(tiny_config: Path) -> None:
    config = load_config(tiny_config, ["head.block_mib=3", "head.keep_mib=0"])
    head = build_head(config, 13, torch.device("cpu"), PLAN, "fp32")
    assert f"block_bytes={3 << 20}, keep_bytes=0" in repr(head)
    head = build_head(load_config(tiny_config), 13, torch.device("cpu"), PLAN, "fp32")
    assert f"block_bytes={BLOCK_BYTES['cpu']}, keep_bytes={KEEP_BYTES['cpu']}" in repr(head)


SUBCENTER = "{name: subcenter_arcface, m: 0.2, k: 2}"
STATEFUL = [
    # Everything with its own state: running statistics, an index, a step count per row, rounding.
    (2, ["train.ema=0.9"]),
    (
        2,
        [
            "head={sampling: hash_forest, rebuild_every: 7, loss: {name: curricularface, m: 0.2}}",
            "head={momentum: bf16, update: frozen, block_mib: 1, keep_mib: 0}",
        ],
    ),
    (2, ["head={loss: {name: adaface, m: 0.2}}", "optimizer={name: adamw, lr: 0.002}"]),
    (2, ["head={placement: replicated, storage: bf16, momentum: int8}", f"head.loss={SUBCENTER}"]),
    (1, ["head={placement: host, sampling: hard_negative}", "optimizer.nesterov=true"]),
    (2, ["head={sampling: importance, sample_rate: 0.5, storage: int8}"]),
]


@pytest.mark.parametrize(("ranks", "settings"), STATEFUL, ids=str)
def test_resume_on_the_same_ranks_is_bit_for_bit(
    tiny_config: Path, tmp_path: Path, ranks: int, settings: list[str]
) -> None:
    arguments = ["--config", str(tiny_config), "--set", "backbone.dropout=0.2"]
    for setting in settings:
        arguments += ["--set", setting]
    train_well(arguments, ranks=ranks)
    copy = interrupted(tmp_path / "run", 20, tmp_path / "copy")
    train_well([*arguments, "--output", str(copy), "--resume", "auto"], ranks=ranks)
    whole, resumed = tensors(tmp_path / "run", 40, tmp_path), tensors(copy, 40, tmp_path)
    assert whole.keys() == resumed.keys()
    state = "head.exp_avg_sq" if "adamw" in str(settings) else "head.momentum"
    assert {"head.weight", state} <= whole.keys()
    averaged = {name for name in whole if name.startswith("backbone_ema.")}
    assert bool(averaged) == ("train.ema" in str(settings))
    for name, tensor in whole.items():
        assert torch.equal(tensor, resumed[name]), name
    for one, other in zip(metrics(tmp_path / "run"), metrics(copy), strict=True):
        assert (one["step"], one["loss"]) == (other["step"], other["loss"])


def test_resume_on_other_numbers_of_ranks_agrees(tiny_config: Path, tmp_path: Path) -> None:
    arguments = ["--config", str(tiny_config), *SHORT]
    train_well(arguments)
    two = interrupted(tmp_path / "run", 2, tmp_path / "two")
    train_well([*arguments, "--output", str(two), "--resume", "auto"], ranks=2)
    moved = f"output was {tmp_path / 'run'} and is {two}"
    assert (two / "log.txt").read_text().count(moved) == 1
    four = interrupted(two, 3, tmp_path / "four")
    train_well([*arguments, "--output", str(four), "--resume", "auto"], ranks=4)
    before, whole = (tensors(tmp_path / "run", step, tmp_path) for step in (2, 4))
    for run in (two, four):
        resumed = tensors(run, 4, tmp_path)
        assert resumed["head.weight"].shape == (13, 16)
        assert_same_steps(resumed, whole, before)
        for one, other in zip(metrics(tmp_path / "run"), metrics(run), strict=True):
            assert other["active_classes"] == one["active_classes"]
            assert other["loss"] == pytest.approx(one["loss"], rel=1e-3)
    last = metrics(four)[-1]
    for name in ("active_classes", "data_wait", "memory_gb"):
        assert last[f"{name}_by_rank"].keys() == {"0", "1", "2", "3"}
    assert sum(last["active_classes_by_rank"].values()) == last["active_classes"]
    for histogram in last["histograms"].values():
        assert sum(histogram["counts"]) == 21  # of all ranks


def test_bad_records_are_skipped_equally_on_all_ranks_and_after_a_resume(
    tiny_config: Path, tiny_data: Path, tmp_path: Path
) -> None:
    data = Path(shutil.copytree(tiny_data, tmp_path / "broken"))
    corrupted = corrupt(data, [20, 45, 61])
    arguments = ["--config", str(tiny_config), *FROZEN, "--set", f"data.train={data}"]
    arguments += ["--set", "data.on_bad_record=skip", "--set", "data.max_bad_share=0.05"]
    arguments += ["--set", "train.steps=8", "--set", "checkpoint.every_steps=2"]
    # A gentle rate: losses differ by which images they are of, not by what last bits grew to.
    arguments += ["--set", "optimizer.lr=0.0001"]
    train_well(arguments)
    copy = interrupted(tmp_path / "run", 2, tmp_path / "copy")
    again = [*arguments, "--output", str(copy), "--resume", "auto", "--set", "data.workers=1"]
    train_well(again, ranks=2)
    whole, resumed = metrics(tmp_path / "run"), metrics(copy)
    counts = [line["bad_records"] for line in whole]
    assert 0 < counts[1] < counts[-1] == 3
    assert [line["bad_records"] for line in resumed] == counts
    for one, other in zip(whole, resumed, strict=True):
        assert other["loss"] == pytest.approx(one["loss"], rel=1e-3)
    reported = [f"{data / 'train.rec'}, {location}: " for location in corrupted]
    log, longer = ((run / "log.txt").read_text() for run in (tmp_path / "run", copy))
    assert [log.count(location) for location in reported] == [1, 1, 1]
    # The copy appends to the log of the whole run, and reports what it had not seen before.
    assert sum(longer.count(location) for location in reported) == 3 + 3 - counts[1]


def test_resume_in_another_placement_agrees(tiny_config: Path, tmp_path: Path) -> None:
    arguments = ["--config", str(tiny_config), *SHORT]
    train_well(arguments)
    last = tmp_path / "run"
    for step, placement, ranks in [(2, "replicated", 2), (3, "host", 2)]:
        copy = interrupted(last, step, tmp_path / placement)
        resume = ["--output", str(copy), "--resume", "auto"]
        train_well([*arguments, *resume, "--set", f"head.placement={placement}"], ranks=ranks)
        last = copy
    before, whole = (tensors(tmp_path / "run", step, tmp_path) for step in (2, 4))
    assert_same_steps(tensors(last, 4, tmp_path), whole, before)
    for one, other in zip(metrics(tmp_path / "run"), metrics(last), strict=True):
        assert other["loss"] == pytest.approx(one["loss"], rel=1e-3)


ORDERS = {
    "blocks": "data={order: blocks, block_records: 4, mixing_blocks: 3}",
    "none": "data.order=none",
    "class_balanced": "data.sampler=class_balanced",
    "p_k": "data={sampler: p_k, identities_per_batch: 7, images_per_identity: 3}",
}


@pytest.mark.parametrize("kind", ORDERS)
def test_a_run_resumes_at_the_exact_batch_in_every_order(
    tiny_config: Path, tmp_path: Path, kind: str
) -> None:
    arguments = ["--config", str(tiny_config), "--set", ORDERS[kind]]
    for setting in ("train.steps=6", "checkpoint.every_steps=3", "verification.sets=[]"):
        arguments += ["--set", setting]
    train_well(arguments)
    copy = interrupted(tmp_path / "run", 3, tmp_path / "copy")
    train_well([*arguments, "--output", str(copy), "--resume", "auto"])
    whole, resumed = tensors(tmp_path / "run", 6, tmp_path), tensors(copy, 6, tmp_path)
    for name, tensor in whole.items():
        assert torch.equal(tensor, resumed[name]), name


def test_the_config_chooses_the_order_and_a_resumed_run_must_keep_it(
    tiny_config: Path, tmp_path: Path
) -> None:
    stored = np.random.default_rng(0).permutation(91)
    with RecordWriter(tmp_path / "mixed.rec") as writer:
        for key in stored.tolist():
            writer.write(key, pack_record(key % 13, key, b"an image"))
    index = tmp_path / "mixed.idx"
    lines = index.read_text().splitlines(keepends=True)
    index.write_text("".join(sorted(lines, key=lambda line: int(line.split()[0]))))
    dataset = open_dataset(tmp_path / "mixed.rec")
    expected: dict[str, SampleOrder] = {
        "global": GlobalOrder(91, 5),
        "blocks": BlockOrder(91, 5, block_records=4, mixing_blocks=3, stored=stored),
        "none": FileOrder(91, stored),
        "class_balanced": ClassBalancedOrder(dataset.labels, 5),
        "p_k": PKOrder(dataset.labels, 5, identities_per_batch=7, images_per_identity=3),
    }
    identities = set()
    for kind, order in expected.items():
        config = load_config(tiny_config, [ORDERS[kind]] if kind in ORDERS else [])
        chosen = build_order(config.data, dataset, config.seed)
        assert (chosen.order(0, 300)[0] == order.order(0, 300)[0]).all()
        identities.add(str(run_identity(config, describe_order(config.data), 13, 91)))
    assert len(identities) == len(expected)


def test_accumulation_equals_the_whole_batch(tiny_config: Path, tmp_path: Path) -> None:
    # Micro-batches of 2, 3, 3 and 3 images: without their weights, gradients are 20% off.
    arguments = ["--config", str(tiny_config), *SHORT, "--set", "train.global_batch_size=11"]
    for setting in ("head={sampling: all, sample_rate: null}", "train.steps=2"):
        arguments += ["--set", setting]
    train_well([*arguments, "--output", str(tmp_path / "whole")])
    parts = [*arguments, "--set", "train.accumulation=4", "--output", str(tmp_path / "parts")]
    train_well(parts, ranks=2)
    before, whole = (tensors(tmp_path / "whole", step, tmp_path) for step in (1, 2))
    assert_same_steps(tensors(tmp_path / "parts", 2, tmp_path), whole, before)
    for found, expected in zip(
        metrics(tmp_path / "parts"), metrics(tmp_path / "whole"), strict=True
    ):
        # Cosines are close to 0 at the start, so theirs is an absolute difference.
        assert found["loss"] == pytest.approx(expected["loss"], rel=1e-4)
        assert found["cosine_positive"] == pytest.approx(expected["cosine_positive"], abs=1e-4)


def test_a_quota_filled_by_the_batch_is_reported(tiny_config: Path, tmp_path: Path) -> None:
    arguments = ["--config", str(tiny_config), "--set", "train.steps=2"]
    train_well([*arguments, "--set", "head.sample_rate=0.1"])
    assert metrics(tmp_path / "run")[0]["quota_overflow"] == 1.0
    assert "head.sample_rate" in (tmp_path / "run" / "log.txt").read_text()


def test_a_run_that_waits_for_data_logs_what_to_change(tiny_config: Path, tmp_path: Path) -> None:
    image = picture(0, 0, size=1280)  # takes many times as long to decode as to train on
    write_face_records(tmp_path / "large", ((label, image) for label in range(13)))
    options = ["--set", f"data.train={tmp_path / 'large'}", "--set", "verification.sets=[]"]
    # More steps than batches that may be ahead, which are ready while the first step warms up.
    options += ["--set", "train.steps=12", "--set", "log.every_steps=6"]
    options += ["--set", "data.prefetch=1"]
    first, second = train(["--config", str(tiny_config), *options], ranks=2)
    assert (first.code, second.code) == (0, 0)
    log, waiting = (tmp_path / "run" / "log.txt").read_text(), re.compile(r"step \d+: \d+% ")
    assert log.count("1 loader thread") == 1  # the choice is logged, with its reason
    assert len(waiting.findall(log)) == 2  # once per interval
    assert not waiting.search(second.output)
    assert "data.workers" in log or "data.image_size" in log or "core" in log
    assert max(line["data_wait"] for line in metrics(tmp_path / "run")) > 0.1


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_mixed_precision_learns(tiny_config: Path, tmp_path: Path, precision: str) -> None:
    settings = f"train={{precision: {precision}, steps: 20}}"
    train_well(["--config", str(tiny_config), "--set", settings], ranks=2)
    lines = metrics(tmp_path / "run")
    assert lines[-1]["loss"] < 0.8 * lines[0]["loss"]
    assert lines[-1]["loss_scale"] == 1.0 if precision == "bf16" else lines[-1]["loss_scale"] > 1
    caution = Precision("fp16", torch.device("cpu")).caution
    assert caution is not None
    assert (caution in (tmp_path / "run" / "log.txt").read_text()) == (precision == "fp16")


def test_starting_from_weights_is_not_resuming(tiny_config: Path, tmp_path: Path) -> None:
    arguments = ["--config", str(tiny_config), "--set", "train.steps=10"]
    train_well(arguments)
    again = train(arguments)[0]
    assert again.code != 0
    assert "--resume auto" in again.output
    new = [*arguments, "--output", str(tmp_path / "new"), "--set", f"init_from={tmp_path / 'run'}"]
    train_well([*new, "--set", "head.sampling=all", "--set", "head.sample_rate=null"])
    assert metrics(tmp_path / "new")[0]["step"] == 1
    assert metrics(tmp_path / "new")[0]["cosine_positive"] != metrics(tmp_path / "run")[0]["loss"]


def test_image_folders_and_labels_with_gaps_train_with_the_mapping_saved(
    tiny_config: Path, tmp_path: Path
) -> None:
    people = ["ann", "bob", "cyd"]
    for number, person in enumerate(people):
        (tmp_path / "people" / person).mkdir(parents=True)
        for image in range(4):
            path = tmp_path / "people" / person / f"{image}.jpg"
            path.write_bytes(picture(number, image))
    with RecordWriter(tmp_path / "gaps.rec") as writer:
        for key in range(12):
            writer.write(key, pack_record([0, 5, 9][key % 3], key, picture(key % 3, key)))
    folder, records = str(tmp_path / "people"), str(tmp_path / "gaps.rec")
    short = ["--config", str(tiny_config), "--set", "verification.sets=[]"]
    short += ["--set", "train.steps=2", "--set", "train.global_batch_size=4"]
    names = {"ann": 0, "bob": 1, "cyd": 2}
    for run, name, mapping in (
        (tmp_path / "of one", folder, names),
        (
            tmp_path / "of two",
            f"[{folder}, {records}]",
            {folder: names, records: {"0": 3, "5": 4, "9": 5}},
        ),
    ):
        data = ["--set", f"data.train={name}", "--set", "data.remap_labels=true"]
        train_well([*short, *data, "--output", str(run)])
        assert json.loads((run / "classes.json").read_text()) == mapping
    ended = train([*short, "--set", f"data.train={records}"])[0]
    assert ended.code != 0
    assert "gaps.rec" in ended.output
    assert "remap_labels" in ended.output


def test_a_dry_run_prints_the_plan_and_writes_nothing(tiny_config: Path, tmp_path: Path) -> None:
    ended = train(["--config", str(tiny_config), "--dry-run"])[0]
    assert ended.code == 0, ended.output
    for text in (
        "91 images of 13 identities",
        "order           global",
        "learning rate   0.05 at step 0",
        "40 (",
    ):
        assert text in ended.output
    assert not (tmp_path / "run").exists()
