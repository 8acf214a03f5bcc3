"""Every way to fail: the message is shown, and every rank ends with an error in bounded time."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import corrupt
from tests.launch import ROOT, Ended, Ranks, train

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
    assert not (tmp_path / "run").exists()


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
    log, _, error = (tmp_path / "run" / "log.txt").read_text().partition("error: ")
    assert all(log.count(f"{location}: ") == 1 for location in locations)
    assert "5 of 91" in error  # what ended the run
    assert "step 4/40" in log
    assert "step 5/40" not in log  # the first epoch ends within step 5
    # The weights are whole, and with another limit the run can go on from here.
    assert [item.name for item in (tmp_path / "run" / "checkpoints").glob("step_*")] == [
        "step_00000005"
    ]


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


def wait_until(file: Path, text: str) -> None:
    """Wait until a file holds a text."""
    deadline = time.monotonic() + 90
    while not (file.exists() and text in file.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert text in file.read_text()


LONG = (
    "--set",
    "train.steps=100000",
    "--set",
    "verification.sets=[]",
    "--set",
    "optimizer.lr=0.01",
)


def contents(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_a_folder_in_use_is_refused_a_signal_saves_and_a_refused_resume_changes_nothing(
    tiny_config: Path, tmp_path: Path
) -> None:
    # Every step is a save point: the last one must not be saved twice.
    arguments = ["--config", str(tiny_config), *LONG, "--set", "checkpoint.every_steps=1"]
    run, log = tmp_path / "run", tmp_path / "run" / "log.txt"
    resume = [*arguments, "--resume", "auto"]
    with Ranks(arguments, RANKS) as running:
        wait_until(log, "step 3/")
        begun, config = log.read_text(), (run / "config.yaml").stat().st_mtime_ns
        second = train(resume, ranks=RANKS)
        assert [rank.code for rank in second] == [1] * RANKS
        assert all(f"process {running.processes[0].pid} " in rank.output for rank in second)
        assert log.read_text().startswith(begun)
        assert (run / "config.yaml").stat().st_mtime_ns == config
        running.send_signal(1, signal.SIGUSR1)
        ended = running.wait(seconds=30)
    assert [rank.code for rank in ended] == [128 + signal.SIGUSR1] * RANKS
    assert "Traceback" not in "".join(rank.output for rank in ended)
    last_step = len((run / "metrics.jsonl").read_text().splitlines())
    checkpoint = f"step_{last_step:08d}"
    assert (run / "checkpoints" / "latest").read_text().strip() == checkpoint
    assert log.read_text().count(checkpoint) == 1
    last = log.read_text().splitlines()[-1]
    assert all(word in last for word in ("SIGUSR1", f"step {last_step} ", "--resume auto"))
    assert list(run.glob(".lock*")) == []

    before = contents(run)
    (refused,) = train([*resume, "--set", "seed=6"])
    assert refused.code == 1
    assert "seed was 5 and is 6" in refused.output
    assert contents(run) == before


def test_torchrun_restarts_a_run_where_it_was(tiny_config: Path, tmp_path: Path) -> None:
    log = tmp_path / "run" / "log.txt"
    command = [
        sys.executable, "-m", "torch.distributed.run", "--max-restarts=1",
        "--monitor-interval=0.1", f"--nproc-per-node={RANKS}", str(ROOT / "train.py"),
        "--config", str(tiny_config), *LONG, "--set", "checkpoint.every_steps=2",
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, text=True, stderr=subprocess.PIPE
    ) as launcher:
        try:
            wait_until(log, "step_00000004")
            (worker,) = re.findall(r"rank 1 is process (\d+)", log.read_text())
            os.kill(int(worker), signal.SIGKILL)
            wait_until(log, "resumed")
            resumed = int(re.findall(r"resumed .* at step (\d+)", log.read_text())[0])
            wait_until(log, f"step {resumed + 1}/")
            # Of all ranks at once, as a scheduler does; the launcher only passes it on.
            launcher.send_signal(signal.SIGTERM)
            _, screen = launcher.communicate(timeout=60)
        finally:
            launcher.kill()
    assert resumed >= 4
    assert launcher.returncode != 0
    last = log.read_text().splitlines()[-1]
    assert "SIGTERM" in last
    latest = (tmp_path / "run" / "checkpoints" / "latest").read_text().strip()
    assert f"step {int(latest.removeprefix('step_'))} " in last
    assert last.partition("stopped")[2] in screen


def test_a_killed_rank_ends_all_within_seconds(tiny_config: Path, tmp_path: Path) -> None:
    long = ["--config", str(tiny_config), "--set", "train.steps=100000"]
    with Ranks([*long, "--set", "verification.sets=[]"], 3) as running:
        metrics = tmp_path / "run" / "metrics.jsonl"
        deadline = time.monotonic() + 60
        while not (metrics.exists() and metrics.stat().st_size) and time.monotonic() < deadline:
            time.sleep(0.1)
        running.send_signal(1, signal.SIGKILL)
        ended = running.wait(seconds=20)
    assert ended[1].code == -signal.SIGKILL
    assert ended[0].code > 0
    assert ended[2].code > 0
    assert "rank 0: error: " in ended[0].output
    assert "Traceback" not in ended[0].output
