"""Faults of a disk and of the machine, at each file operation of one process in turn.

Python reports opening, renaming, making and removing to audit hooks; `fsync`, and writes of the
files of a checkpoint, are wrapped. A hook cannot be taken away again: arm it in a process of its
own.
"""

import errno
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

EVENTS = ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir")
ERRORS = (errno.ENOSPC, errno.EIO, errno.EROFS, errno.EACCES)


class Faults:
    """Counts the file operations below `folder` and lets the one numbered `at` fail.

    `error` is the errno it fails with; without one the process is killed there. A write is torn:
    half of it arrives first. `count` is the number of operations so far.
    """

    def __init__(self, folder: Path, at: int, error: int | None = None) -> None:
        self.folder, self.at, self.error = str(folder), at, error
        self.count = 0
        self.operation = ""

    def arm(self) -> None:
        """Begin to count."""
        sys.addaudithook(self._audit)
        wrapped = os.fsync

        def fsync(descriptor: Any) -> None:
            self._operate(f"fsync {descriptor_path(descriptor)}", descriptor_path(descriptor))
            wrapped(descriptor)

        os.fsync = fsync  # type: ignore[assignment]
        try:
            from recognition.checkpoint.manifest import DigestingFile
        except ImportError:  # a version before there were hashes
            return
        write = DigestingFile.write

        def torn_write(file: Any, data: Any) -> int:
            def half() -> None:
                file._file.write(memoryview(data).cast("B")[: len(data) // 2])
                file._file.flush()

            try:
                self._operate(f"write {file._file.name}", str(file._file.name), before=half)
            except OSError as error:
                file.error = error  # as the file's own `write` does
                raise
            return write(file, data)

        DigestingFile.write = torn_write  # type: ignore[assignment,method-assign]

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in EVENTS and arguments:
            path = arguments[0]
            if event == "open" and isinstance(path, int):
                return
            self._operate(f"{event} {path}", os.fsdecode(path))

    def _operate(
        self, operation: str, path: str, before: Callable[[], None] = lambda: None
    ) -> None:
        if not path.startswith(self.folder):
            return
        self.count += 1
        if self.count != self.at:
            return
        self.operation = operation
        before()
        if self.error is None:
            os.kill(os.getpid(), signal.SIGKILL)
        raise OSError(self.error, os.strerror(self.error or 0), path)


def descriptor_path(descriptor: Any) -> str:
    """Return the path of an open file; of any other file descriptor, nothing."""
    number = descriptor if isinstance(descriptor, int) else descriptor.fileno()
    try:
        return os.readlink(f"/proc/self/fd/{number}")
    except OSError:
        return ""
