"""Messages about what went wrong, and what signals do."""

import errno
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from recognition import failure
from recognition.distributed import Process, World
from recognition.failure import (
    StoppedBySignal,
    StopSignals,
    describe_os_error,
    report_and_exit,
)


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (errno.ENOSPC, "disk full"),
        (errno.EROFS, "read-only"),
        (errno.EACCES, "no permission"),
        (errno.EPERM, "no permission"),
        (errno.ENAMETOOLONG, "File name too long"),
    ],
)
def test_a_failed_write_says_what_where_and_how_much_is_free(
    tmp_path: Path, number: int, expected: str
) -> None:
    path = tmp_path / "folder that is missing" / "metrics.jsonl"
    message = describe_os_error(path, OSError(number, "File name too long"))
    assert message.startswith(f"{path}: {expected}")
    assert "iB free" in message
    assert "\n" not in message


def test_an_error_without_a_number_is_shown_as_it_is(tmp_path: Path) -> None:
    assert "unexpected pos" in describe_os_error(tmp_path, OSError("unexpected pos 704 vs 598"))


def wait_for(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not happened() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert happened()


@pytest.fixture
def exits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the codes with which this process would have ended at once."""
    codes: list[int] = []
    monkeypatch.setattr(os, "_exit", codes.append)
    return codes


def test_a_signal_before_training_ends_the_run_at_once() -> None:
    with pytest.raises(StoppedBySignal) as caught, StopSignals(World()):
        signal.raise_signal(signal.SIGTERM)
    assert caught.value.number == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_during_training_is_a_request(number: signal.Signals, exits: list[int]) -> None:
    with StopSignals(World()) as signals:
        signals.peers = [Process.of(os.getpid())]
        with signals.deferred():
            assert signals.requested == 0
            for _ in range(2):  # a launcher may pass on what the terminal has sent as well
                os.kill(os.getpid(), number)
            wait_for(lambda: signals.requested == number)
        os.kill(os.getpid(), signal.SIGTERM)  # it is ending already
        assert signals.requested == number
    assert exits == []


def test_a_second_interrupt_ends_at_once(exits: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failure, "_SAME_INTERRUPT", -1.0)
    with StopSignals(World()) as signals, signals.deferred():
        os.kill(os.getpid(), signal.SIGINT)
        wait_for(lambda: signals.requested == signal.SIGINT)
        assert exits == []
        os.kill(os.getpid(), signal.SIGINT)
        wait_for(lambda: exits != [])
    assert exits[0] == 130


def test_a_signal_ends_a_rank_at_once_when_another_is_gone(exits: list[int]) -> None:
    with subprocess.Popen(["sleep", "60"]) as peer, StopSignals(World()) as signals:
        signals.peers = [Process.of(os.getpid()), Process.of(peer.pid)]
        peer.kill()  # and nobody has waited for it yet
        with signals.deferred():
            os.kill(os.getpid(), signal.SIGTERM)
            wait_for(lambda: exits != [])
    assert exits[0] == 143


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ValueError("optimizer.lr is 7"), 1),
        (StoppedBySignal(signal.SIGUSR1, "optimizer.lr is 7"), 138),
        (RuntimeError("optimizer.lr is 7"), 1),
    ],
    ids=["user", "signal", "bug"],
)
def test_torchrun_is_told_the_message_without_a_traceback(
    error: BaseException, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "error.json"
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(file))
    with pytest.raises(SystemExit) as ended, StopSignals(World()):
        report_and_exit(error, World())
    assert ended.value.code == code
    shown = ProcessFailure(local_rank=0, pid=1, exitcode=code, error_file=str(file))
    assert shown.timestamp > 0
    text = ChildFailedError("train.py", {0: shown}).format_msg()  # type: ignore[no-untyped-call]
    assert text.splitlines()[-2].endswith("optimizer.lr is 7")
