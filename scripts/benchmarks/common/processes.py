"""Objects and functions in fresh processes, so that one's memory is not counted as another's."""

import multiprocessing
import os
import sys
import traceback
from collections.abc import Callable
from contextlib import closing
from functools import partial
from multiprocessing.connection import Connection
from typing import Any, TypeVar

Result = TypeVar("Result")


class ProcessError(RuntimeError):
    """A process failed; the message is its traceback, or its exit code if it was killed."""


class Remote:
    """The object `make(*args)` in a process of its own, which calls its methods one by one.

    `start_method` is that of `multiprocessing`; None means a process that shares no memory with
    this one, and starts fast where the system allows it.
    """

    def __init__(
        self, make: Callable[..., object], *args: Any, start_method: str | None = None
    ) -> None:
        context = fresh_context(start_method)
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, make, args))
        self._process.start()
        theirs.close()

    def start(self, method: str, *args: Any) -> None:
        """Start a call of a method; `wait` returns its result."""
        self._connection.send((method, args))

    def wait(self) -> Any:
        """Return the result of the first call that was started; before all, None once it is made.

        Raises `ProcessError` if the process fails.
        """
        try:
            succeeded, value = self._connection.recv()
        except (EOFError, ConnectionError):
            self._process.join(5.0)
            raise ProcessError(
                f"the process ended without an answer, exit code {self._process.exitcode}: -9 "
                "means that the system killed it, usually for lack of memory"
            ) from None
        if not succeeded:
            raise ProcessError(value)
        return value

    def close(self) -> None:
        """End the process."""
        self._connection.close()
        self._process.kill()
        self._process.join()


def in_fresh_process(
    function: Callable[..., Result], *args: Any, start_method: str | None = None
) -> Result:
    """Return `function(*args)` of a process of its own; raises `ProcessError` if it fails."""
    with closing(Remote(partial, function, *args, start_method=start_method)) as remote:
        remote.wait()
        remote.start("__call__")
        result: Result = remote.wait()
        return result


def fresh_context(start_method: str | None) -> Any:
    """Return the context of `multiprocessing` for processes that share no memory with this one.

    A stated start method is taken as it is.
    """
    if start_method is not None:
        return multiprocessing.get_context(start_method)
    if "forkserver" not in multiprocessing.get_all_start_methods():  # as on Windows
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    # A server that has imported everything once starts a process in tenths of a second.
    context.set_forkserver_preload([name for name in sys.modules if name.startswith("scripts.")])
    return context


def _serve(connection: Connection, make: Callable[..., object], args: tuple[Any, ...]) -> None:
    try:
        served = make(*args)
        connection.send((True, None))
        while True:
            method, arguments = connection.recv()
            connection.send((True, getattr(served, method)(*arguments)))
    except EOFError:
        pass  # no more calls
    except Exception:
        connection.send((False, traceback.format_exc()))
    os._exit(0)  # without the teardown of a process group whose other ranks may be stuck
