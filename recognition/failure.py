"""How a failing rank ends: at once, with its own message, ending all other ranks.

A rank that raises must not wait for the others: they may be in a collective that will never
complete. Its process ends, its sockets close, and then the others' collectives fail or `torchrun`
stops them. The others wait for a moment before they print, so that the cause, and not its
consequences, is the first message on the screen.
"""

import contextlib
import os
import sys
import time
import traceback
from typing import NoReturn

import torch.distributed as dist
from torch.distributed.elastic.multiprocessing.errors import get_error_handler

from recognition.distributed import World
from recognition.redaction import redact

# What gloo's errors say when a peer is gone; NCCL's errors have their own class.
_LOST_PEER = (
    "connection closed by peer",
    "connection reset by peer",
    "connection refused",
    "broken pipe",
    "socket closed",
    "caused pair closure",
    "timed out waiting",
)


def report_and_exit(error: BaseException, world: World) -> NoReturn:
    """Print what ended this rank and end its process with a non-zero code.

    A `ValueError` is for the user: only its message is shown. Anything else is a bug or a fault of
    the machine and is shown with its traceback. With several ranks, `torchrun` repeats the message
    of the first rank that failed in its closing summary.
    """
    if isinstance(error, SystemExit):
        sys.exit(error.code)
    if isinstance(error, KeyboardInterrupt):
        print("\ninterrupted; continue with --resume auto", file=sys.stderr)
        _end(130, world)
    lost = _lost_a_peer(error)
    if lost:
        time.sleep(3.0)  # the peer's own message, or torchrun's signal, comes first
        text = f"lost contact with another rank; see that rank's message ({_first_line(error)})"
    elif isinstance(error, ValueError):
        if world.rank > 0:
            time.sleep(1.0)  # if rank 0 has the same error, it reports it first
        text = str(error)
    else:
        text = "".join(traceback.format_exception(error))
    prefix = f"rank {world.rank}: " if world.size > 1 else ""
    print(f"\n{prefix}error: {redact(text)}", file=sys.stderr, flush=True)
    if world.size > 1 and not lost:
        handler = get_error_handler()
        with contextlib.suppress(OSError):  # without this file torchrun's summary is only shorter
            handler.record_exception(error)
    _end(1, world)


def _end(code: int, world: World) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    if world.size == 1:
        sys.exit(code)
    # Not sys.exit: destructors of process groups may wait for the other ranks forever.
    os._exit(code)


def _lost_a_peer(error: BaseException) -> bool:
    if isinstance(error, dist.DistError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(sign in text for sign in _LOST_PEER)


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]
