"""Every way to fail: the message is shown, and every rank ends with an error in bounded time."""

import os
import shutil
import signal
import time
from pathlib import Path

import pytest

from tests.conftest import corrupt
from tests.launch import Ended, Ranks, train

pytestmark = pytest.mark.slow

RANKS = 2


def assert_all_failed(ended: list[Ended], *messages: str) -> None:
    outputs = "\n".join(rank.output for rank in ended)
    assert [rank.code for rank in ended if rank.code == 0] == [], outputs
    for message in messages:
        assert message in outputs, outputs


@pytest.fixture
def broken_data(tiny_data: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_data, tmp_path / "broken"))


def test_a_config_error(tiny_config: Path) -> None:
    ended = train(["--config", str(tiny_config), "--set", "head.sampel_rate=0.2"], ranks=RANKS)
    assert_all_failed(ended, "head.sampel_rate: ", "did you mean sample_rate?")
    assert "Traceback" not in ended[0].output


@pytest.mark.parametrize(
    ("override", "messages"),
    [
        ("data.train=/nowhere/at/all", ["/nowhere/at/all"]),
        ("data.num_classes=12", ["data.num_classes is 12", "has 13"]),
        ("verification.sets=[pears]", ["pears", "pairs"]),
        ("backbone.name=r51", ["r51", "r50"]),
        ("train.global_batch_size=2", ["train.global_batch_size 2", "2 ranks"]),
        (
            "data={sampler: p_k, identities_per_batch: 21, images_per_identity: 1}",
            ["identities_per_batch is 21", "1 to 13"],
        ),
    ],
    ids=["missing data", "class count", "missing set", "backbone", "batch", "p_k"],
)
def test_what_cannot_work_is_refused_before_step_1(
    tiny_config: Path, tmp_path: Path, override: str, messages: list[str]
) -> None:
    ended = train(["--config", str(tiny_config), "--set", override], ranks=RANKS)
    assert_all_failed(ended, *messages)
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_a_truncated_rec(tiny_config: Path, broken_data: Path) -> None:
    os.truncate(broken_data / "train.rec", (broken_data / "train.rec").stat().st_size // 2)
    ended = train(["--config", str(tiny_config), "--set", f"data.train={broken_data}"], ranks=RANKS)
    assert_all_failed(ended, "train.rec")
    assert "Traceback" not in ended[0].output


@pytest.mark.parametrize("workers", [1, 2])
def test_a_corrupt_jpeg(tiny_config: Path, broken_data: Path, workers: int) -> None:
    (location,) = corrupt(broken_data, [45])
    ended = train(
        [
            "--config", str(tiny_config), "--set", f"data.train={broken_data}",
            "--set", f"data.workers={workers}",
        ],
        ranks=RANKS,
    )  # fmt: skip
    assert_all_failed(ended, f"{broken_data / 'train.rec'}, {location}: ")
    assert all("Traceback" not in rank.output for rank in ended)


def test_more_bad_records_than_allowed_stop_a_run_that_skips_them(
    tiny_config: Path, broken_data: Path, tmp_path: Path
) -> None:
    locations = corrupt(broken_data, [5, 20, 45, 60, 80])
    ended = train(
        [
            "--config", str(tiny_config), "--set", f"data.train={broken_data}",
            "--set", "data.on_bad_record=skip", "--set", "data.max_bad_share=0.05",
        ],
        ranks=RANKS,
    )  # fmt: skip
    assert_all_failed(ended, "5 of 91", "max_bad_share")
    assert all("Traceback" not in rank.output for rank in ended)
    log = (tmp_path / "run" / "log.txt").read_text()
    assert all(log.count(f"{location}: ") == 1 for location in locations)
    assert "step 4/40" in log
    assert "step 5/40" not in log  # the first epoch ends within step 5


def test_a_nan_stops_before_weights_are_touched(tiny_config: Path, tmp_path: Path) -> None:
    ended = train(
        [
            "--config", str(tiny_config), "--set", "optimizer.lr=1e12",
            "--set", "optimizer.clip_norm=null", "--set", "checkpoint.every_steps=1",
        ],
        ranks=RANKS,
    )  # fmt: skip
    assert_all_failed(ended, "optimizer.lr")
    # The step that the message names is the one after the last checkpoint, which is intact.
    saved = sorted((tmp_path / "run" / "checkpoints").glob("step_*"))
    step = len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    assert saved[-1].name in ended[0].output
    assert f"step {int(saved[-1].name.removeprefix('step_'))}: " in ended[0].output
    assert step >= 1


def test_a_killed_rank_ends_all_within_seconds(tiny_config: Path, tmp_path: Path) -> None:
    long = ["--config", str(tiny_config), "--set", "train.steps=100000"]
    with Ranks([*long, "--set", "verification.sets=[]"], 3) as running:
        metrics = tmp_path / "run" / "metrics.jsonl"
        deadline = time.monotonic() + 60
        while not (metrics.exists() and metrics.stat().st_size) and time.monotonic() < deadline:
            time.sleep(0.1)
        running.processes[1].send_signal(signal.SIGKILL)
        ended = running.wait(seconds=20)
    assert ended[1].code == -signal.SIGKILL
    assert ended[0].code > 0
    assert ended[2].code > 0
    assert "rank 0: error: " in ended[0].output
    assert "Traceback" not in ended[0].output
