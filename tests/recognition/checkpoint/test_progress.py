from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from recognition.checkpoint import CheckpointError
from recognition.checkpoint.progress import Progress, check_identity

GOOD = asdict(Progress(step=3, best_accuracy=0.5, seconds=7))


def test_progress_comes_back() -> None:
    found = Progress.from_json(Path("run"), {"step": 3, "progress": GOOD})
    assert found == Progress(3, 0.5, 7)


@pytest.mark.parametrize(
    "progress",
    [
        {}, None, [], 3, {"step": 3}, {**GOOD, "more": 1}, {**GOOD, "step": 0},
        {**GOOD, "step": True}, {**GOOD, "step": 3.0}, {**GOOD, "step": "3"},
        {**GOOD, "step": -3}, {**GOOD, "seconds": float("nan")}, {**GOOD, "seconds": float("inf")},
        {**GOOD, "best_accuracy": None}, {**GOOD, "best_accuracy": [1]},
    ],
)  # fmt: skip
def test_nothing_is_assumed_of_a_progress_that_no_save_wrote(progress: Any) -> None:
    with pytest.raises(CheckpointError, match=r"run\.json.*progress"):
        Progress.from_json(Path("run"), {"step": 3, "progress": progress})


@pytest.mark.parametrize("identity", [None, {}, [], "x", {"seed": 2}])
def test_a_checkpoint_of_another_run_is_refused(identity: Any) -> None:
    check_identity(Path("run"), {"identity": {"seed": 1, "more": 2}}, {"seed": 1})
    check_identity(Path("run"), {"identity": {}}, {"head.storage": "fp32"})  # older than this
    with pytest.raises(CheckpointError, match="run"):
        check_identity(Path("run"), {"identity": identity}, {"seed": 1})
