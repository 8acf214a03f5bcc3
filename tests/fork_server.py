"""A server of processes that have imported the whole project before they begin."""

import multiprocessing
from multiprocessing.context import ForkServerContext


def fork_server() -> ForkServerContext:
    """Return the context of `multiprocessing` whose processes start in tenths of a second.

    They are forked from a process that starts no thread and does nothing but import, once for
    each process that runs tests. A fresh interpreter takes seconds for the same imports.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.conftest", "train"])
    return context
