import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from recognition.distributed import Process
from scripts.machine.process import Order, Outcome, limit_words, run_step
from scripts.machine.step import FAILED, GOOD, TINY, Context, Step, Verdict

pytestmark = pytest.mark.slow


def _good(context: Context) -> Verdict:
    context.send("machine", {"device": "toy"})
    context.record(images_per_s=3.0, what="a")
    print("printed")
    os.system("echo by a child")
    return Verdict(GOOD, "as expected")


def _raises(context: Context) -> Verdict:
    context.record(found=1)
    raise RuntimeError("no such kernel\nand more")


def _crashes(context: Context) -> Verdict:
    print("last words", flush=True)
    os.kill(os.getpid(), signal.SIGSEGV)
    raise AssertionError("dead by now")


def _hangs(context: Context) -> Verdict:
    """As torchrun does: with a child in a group of its own, which ignores SIGTERM."""
    ignore = "import signal, time; signal.signal(15, signal.SIG_IGN); print(1, flush=True)"
    child = subprocess.Popen(
        [sys.executable, "-c", f"{ignore}; time.sleep(600)"],
        start_new_session=True, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert child.stdout is not None
    child.stdout.readline()
    (context.folder / "pids").write_text(f"{os.getpid()} {child.pid}")
    context.record(began=True)
    time.sleep(600)
    raise AssertionError("ended by now")


def _prints_without_end(context: Context) -> Verdict:
    while True:
        print("x" * 1000)


def _run(run: object, folder: Path, seconds: float = 60.0, log: Path | None = None) -> Outcome:
    assert callable(run)
    step = Step("toy", "A toy", run, {TINY: seconds})
    order = Order(step.run, "cpu", TINY, folder, seconds)
    return run_step(step, order, folder / "toy.log" if log is None else log)


def _ended(folder: Path) -> list[bool | None]:
    pids = [int(pid) for pid in (folder / "pids").read_text().split()]
    return [Process.of(pid).has_ended() for pid in pids]


def test_a_step_reports_rows_facts_and_its_output(tmp_path: Path) -> None:
    outcome = _run(_good, tmp_path)
    assert outcome.verdict == Verdict(GOOD, "as expected")
    assert outcome.rows == [{"images per s": 3.0, "what": "a"}]
    assert outcome.facts == {"machine": {"device": "toy"}}
    log = (tmp_path / "toy.log").read_text()
    assert log == outcome.tail
    assert log.splitlines()[-2:] == ["printed", "by a child"]


def test_a_step_that_raises_keeps_its_rows_and_its_traceback(tmp_path: Path) -> None:
    outcome = _run(_raises, tmp_path)
    assert outcome.verdict == Verdict(FAILED, "RuntimeError: no such kernel")
    assert outcome.rows == [{"found": 1}]
    assert "in _raises" in outcome.tail


def test_a_step_that_crashes_is_reported_with_its_exit_code(tmp_path: Path) -> None:
    outcome = _run(_crashes, tmp_path)
    assert outcome.verdict.status == FAILED
    assert "-11" in outcome.verdict.words
    assert "last words" in outcome.tail


def test_at_the_limit_everything_that_a_step_started_ends(tmp_path: Path) -> None:
    outcome = _run(_hangs, tmp_path, 3.0)
    assert outcome.verdict == Verdict(FAILED, limit_words(3.0))
    assert outcome.rows == [{"began": True}]
    assert _ended(tmp_path) == [True, True]


def test_ctrl_c_ends_everything_that_a_step_started(tmp_path: Path) -> None:
    def interrupt() -> None:
        while not (tmp_path / "pids").exists():
            time.sleep(0.05)
        time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGINT)

    # A shell's background jobs, and so the tests in one, ignore the signal.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            _run(_hangs, tmp_path)
    finally:
        signal.signal(signal.SIGINT, before)
    thread.join()
    assert _ended(tmp_path) == [True, True]


def _checks(folder: str) -> None:
    _run(_hangs, Path(folder))


def test_a_killed_command_leaves_nothing_running(tmp_path: Path) -> None:
    command = multiprocessing.get_context("spawn").Process(target=_checks, args=(str(tmp_path),))
    command.start()
    while not (tmp_path / "pids").exists():
        time.sleep(0.05)
    time.sleep(0.2)
    command.kill()
    command.join()
    end = time.monotonic() + 30.0
    while _ended(tmp_path) != [True, True] and time.monotonic() < end:
        time.sleep(0.05)
    assert _ended(tmp_path) == [True, True]


def test_a_full_disk_costs_the_log_alone(tmp_path: Path) -> None:
    outcome = _run(_good, tmp_path, log=Path("/dev/full"))
    assert outcome.verdict.status == GOOD
    assert "printed" in outcome.tail


def test_output_without_end_does_not_outlive_the_limit(tmp_path: Path) -> None:
    outcome = _run(_prints_without_end, tmp_path, 1.0, log=Path("/dev/null"))
    assert outcome.verdict == Verdict(FAILED, limit_words(1.0))
    assert len(outcome.tail) <= 4000
