"""The tests that a machine with a GPU runs on it: those with pytest's marker `gpu`."""

import importlib.util
import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from data.loading.tuning import usable_cores
from scripts.benchmarks.common.machine import ROOT
from scripts.machine.step import FAILED, GOOD, SKIPPED, SLOW, Context, Verdict

NEEDED = ("pytest", "xdist", "pytest_timeout", "hypothesis")
MARK = "pytest.mark.gpu"
MOST_WORKERS = 8  # each has its own CUDA context, and most of their time goes to Triton's compiler
SHORTEST = "test_a_nan_product_shows"  # of the whole list: for rehearsals


def test_files() -> list[Path]:
    """Return the files under `tests/` that have such a test, so that only they are imported."""
    files = sorted((ROOT / "tests").rglob("test_*.py"))
    return [file for file in files if MARK in file.read_text(encoding="utf-8")]


def run(context: Context) -> Verdict:
    """Run them with pytest, as many as the time allows."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        return Verdict(
            SKIPPED, f"{', '.join(missing)} not installed: pip install -e '.[test]' to run them"
        )
    report = context.folder / "tests.xml"
    seconds = max(5, int(context.left() - 15))
    files = [file for file in test_files() if not context.tiny or "kernels" in file.parts]
    workers = 0 if context.tiny else min(MOST_WORKERS, usable_cores())
    command = [
        sys.executable, "-m", "pytest", "-m", "gpu", f"-n{workers}", "--maxprocesses=8",
        f"--session-timeout={seconds}", "--tb=short", "-rfE", "-p", "no:cacheprovider",
        f"--junitxml={report}", *(["-k", SHORTEST] if context.tiny else []),
        *map(str, files),
    ]  # fmt: skip
    # Of a pytest that runs this very check as a test.
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    ended = subprocess.run(command, cwd=ROOT, env=clean, check=False)
    if not report.exists():
        return Verdict(FAILED, f"pytest ended with code {ended.returncode} and without a report")
    return _verdict(context, report, ended.returncode, seconds)


def _verdict(context: Context, report: Path, code: int, seconds: int) -> Verdict:
    bad, passed, skipped = [], 0, 0
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        if case.find("skipped") is not None:
            skipped += 1
        elif case.find("failure") is not None or case.find("error") is not None:
            bad.append(f"{case.get('classname')}.{case.get('name')}")
        else:
            passed += 1
    context.record(passed=passed, failed=len(bad), skipped=skipped)
    for name in bad:
        context.record(failed_test=name)
    if bad:
        return Verdict(FAILED, f"{len(bad)} of {len(bad) + passed} tests failed")
    if passed == 0:
        return Verdict(FAILED, f"no test passed; pytest ended with code {code}")
    if code != 0:
        return Verdict(SLOW, f"{passed} tests passed, the others were not reached in {seconds} s")
    return Verdict(GOOD, f"{passed} tests passed, {skipped} skipped")
