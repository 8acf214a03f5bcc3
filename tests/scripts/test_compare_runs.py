import json
from pathlib import Path
from typing import Any

import pytest

from scripts.compare_runs import main

RECORDS: list[dict[str, Any]] = [
    {"event": "train", "step": 1, "loss": 2.5, "images_per_second": 100.0},
    {"event": "verification", "step": 1, "set": "lfw", "tar_at_far": {"0.1": 0.5}},
]


def _run(folder: Path, records: list[dict[str, Any]]) -> str:
    folder.mkdir()
    (folder / "metrics.jsonl").write_text("".join(json.dumps(each) + "\n" for each in records))
    return str(folder)


def _changed(row: int, **values: Any) -> list[dict[str, Any]]:
    return [record | (values if i == row else {}) for i, record in enumerate(RECORDS)]


@pytest.mark.parametrize(
    ("records", "status", "shown"),
    [
        (RECORDS, 0, ["2 records"]),
        (_changed(0, images_per_second=7.0), 0, ["2 records"]),
        (
            _changed(0, loss=2.5000000000000004),
            1,
            ["train at step 1", "2.5 ", "2.5000000000000004"],
        ),
        (_changed(1, tar_at_far={"0.1": 0.25}), 1, ["verification lfw at step 1", "0.25"]),
        (_changed(1, accuracy=0.5), 1, ["accuracy", "None", "0.5"]),
        (RECORDS[:1], 1, ["2 and 1"]),
    ],
)
def test_every_number_but_measurements_must_agree(
    tmp_path: Path,
    records: list[dict[str, Any]],
    status: int,
    shown: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = [_run(tmp_path / "before", RECORDS), _run(tmp_path / "after", records)]
    assert main(arguments) == status
    out = capsys.readouterr().out
    assert all(text in out for text in shown)


def test_a_folder_that_is_no_run_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([_run(tmp_path / "before", RECORDS), str(tmp_path / "none")]) == 2
    assert "none/metrics.jsonl" in capsys.readouterr().err
