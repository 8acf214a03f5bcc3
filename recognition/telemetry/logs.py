"""Log lines: to the terminal, and of rank 0 to `log.txt`."""

import logging
import sys
from logging.handlers import MemoryHandler
from pathlib import Path

from recognition.distributed import World
from recognition.failure import file_log
from recognition.redaction import printable, redact
from recognition.telemetry.files import LostWrites


class _Formatter(logging.Formatter):
    """Makes fit to be shown whatever any library logs, tracebacks included."""

    def __init__(self, world: World, time_format: str) -> None:
        prefix = "" if world.is_main else f"rank {world.rank}: "
        super().__init__(f"%(asctime)s {prefix}%(message)s", time_format)

    def format(self, record: logging.LogRecord) -> str:
        return printable(redact(super().format(record)))


class _LogFile(logging.FileHandler):
    """A log file that may fail: logging itself would print a traceback for each line."""

    def __init__(self, path: Path, *, delay: bool = False) -> None:
        super().__init__(path, delay=delay, encoding="utf-8")
        self._lost = LostWrites(path, "lines")

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (logging's name)
        error = sys.exc_info()[1]
        if isinstance(error, OSError):
            self._lost.add(error)
        else:
            super().handleError(record)


def configure_logging(world: World) -> None:
    """Send log lines to the terminal, on rank 0 warnings of libraries too; other ranks only warn.

    Rank 0 also keeps them in memory, for `open_log`.
    """
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    handlers[0].setFormatter(_Formatter(world, "%T"))
    if world.is_main:
        handlers.append(MemoryHandler(1 << 20, flushLevel=sys.maxsize, flushOnClose=False))
    logging.basicConfig(
        level=logging.INFO if world.is_main else logging.WARNING, handlers=handlers, force=True
    )
    logging.captureWarnings(world.is_main)
    file_log.propagate = False
    file_log.handlers = [logging.NullHandler()]


def open_log(world: World, file: Path) -> None:
    """Write rank 0's log lines to `file`, earlier ones included; of other ranks their last error.

    Raises `OSError` if the file cannot be written.
    """
    handler = _LogFile(file, delay=not world.is_main)
    handler.setFormatter(_Formatter(world, "%F %T"))
    file_log.handlers = [handler]
    for earlier in logging.root.handlers:
        if isinstance(earlier, MemoryHandler):
            earlier.setTarget(handler)
            earlier.flush()
            logging.root.handlers[logging.root.handlers.index(earlier)] = handler
