import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from recognition.distributed import World
from recognition.failure import file_log
from recognition.telemetry import configure_logging, open_log
from tests.conftest import file_limit


@pytest.fixture
def own_logging(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Put logging back into the state in which pytest has it."""
    root, handlers, level = logging.root, list(logging.root.handlers), logging.root.level
    root.handlers.clear()
    yield
    logging.captureWarnings(False)
    for logger in (root, file_log):
        for handler in logger.handlers:
            handler.close()
        logger.handlers.clear()
    root.handlers, file_log.propagate = handlers, True
    root.setLevel(level)


@pytest.mark.usefixtures("own_logging")
def test_the_log_file_begins_with_what_was_said_before(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "log.txt"
    configure_logging(World())
    logging.getLogger("data").info("first line")
    warnings.warn("a library warns", stacklevel=1)
    assert not file.exists()
    open_log(World(), file)
    logging.getLogger("data").info("second line")
    file_log.error("last line")
    found = [text for text in file.read_text().split() if text in ("first", "warns", "second")]
    assert found == ["first", "warns", "second"]
    assert "last line" in file.read_text()
    assert "last line" not in capsys.readouterr().err
    with file_limit(file.stat().st_size):
        for _ in range(3):
            logging.getLogger("data").info("this one is not in the file")
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.usefixtures("own_logging")
def test_of_another_rank_the_log_file_gets_the_last_error_alone(tmp_path: Path) -> None:
    file, world = tmp_path / "log.txt", World(rank=1, size=2)
    configure_logging(world)
    open_log(world, file)
    logging.getLogger("data").warning("on the screen")
    assert not file.exists()
    file_log.error("the error")
    assert file.read_text().endswith("rank 1: the error\n")


@pytest.mark.usefixtures("own_logging")
def test_the_log_has_no_secret_whatever_logs_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logging(World())
    try:
        raise OSError("https://me:hush@host/x?sig=hush")
    except OSError:
        logging.getLogger("library").exception("no %s", "https://host/x?sig=hush")
    logging.getLogger("library").warning("%s", "\x1b]0;title\x07\udcff")
    open_log(World(), tmp_path / "log.txt")
    for text in ((tmp_path / "log.txt").read_text(), capsys.readouterr().err):
        assert "hush" not in text
        assert "OSError: https://***@host/x?***" in text
        assert "no https://host/x?***" in text
        assert r"\x1b]0;title\x07\udcff" in text
