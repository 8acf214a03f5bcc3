import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from data.tools.check.kinds import KINDS
from data.tools.merge import merge_records
from data.tools.record_set import Sharding
from scripts.check_records import main
from tests.launch import ROOT


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Start the command as a user does."""
    return subprocess.run(
        [sys.executable, "-m", "scripts.check_records", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        text=True,
        capture_output=True,
        timeout=200,
    )


@pytest.fixture
def damaged(tiny_data: Path, tmp_path: Path) -> Path:
    for name in ("train.rec", "train.idx"):
        (tmp_path / name).write_bytes((tiny_data / name).read_bytes())
    with (tmp_path / "train.rec").open("r+b") as file:
        file.write(b"?")
    return tmp_path / "train.rec"


def test_a_clean_file_has_exit_code_0(tiny_data: Path) -> None:
    ended = run(tiny_data)
    assert ended.returncode == 0, ended.stderr
    assert re.search(r" 91 .* 13 ", ended.stdout)


def test_findings_have_exit_code_1_and_are_in_the_report(damaged: Path, tmp_path: Path) -> None:
    ended = run(damaged, "--report", tmp_path / "report.json", "--no-decode", "--workers", 1)
    assert ended.returncode == 1, ended.stderr
    assert KINDS["damage"].title in ended.stdout
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["files"] == [str(damaged)]
    assert (report["clean"], report["decoded"], report["images"]) == (False, False, 90)
    kinds = {finding["kind"]: finding for finding in report["findings"]}
    assert kinds["damage"]["places"][0]["offset"] == 0
    assert kinds["index_lost"]["places"][0]["key"] == 1


def test_shards_are_one_dataset(tiny_data: Path, tmp_path: Path) -> None:
    merge_records([tiny_data], tmp_path / "set", sharding=Sharding(shards=2))
    for named in (tmp_path / "set", tmp_path / "set" / "train-*.rec"):
        ended = run(named, "--no-decode", "--workers", 1)
        assert ended.returncode == 0, ended.stderr
        assert re.search(r" 91 .* 13 ", ended.stdout)


def test_a_missing_file_has_exit_code_2(tmp_path: Path) -> None:
    ended = run(tmp_path / "absent.rec")
    assert ended.returncode == 2
    assert f"error: {tmp_path / 'absent.rec'} " in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_file_named_twice_is_refused(tiny_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tiny_data), str(tiny_data / "train.rec")]) == 2
    assert f"error: {tiny_data / 'train.rec'} " in capsys.readouterr().err


def test_a_report_without_a_folder_is_refused_before_the_work(
    damaged: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(damaged), "--report", str(tmp_path / "none" / "report.json")]) == 2
    assert f"error: --report {tmp_path / 'none' / 'report.json'}" in capsys.readouterr().err


def test_help_names_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    printed = capsys.readouterr().out
    assert all(option in printed for option in ("--no-decode", "--report", "--workers"))
