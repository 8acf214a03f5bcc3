"""How many cores there are to work with."""

import os


def usable_cores() -> int:
    """Return how many cores this process may use, which in a container can be fewer than exist."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
