"""What a reader needs to know about the machine to interpret the figures.

torch is imported inside functions: the worker processes of `scripts/benchmark_tools.py` import
this module, and torch takes seconds.
"""

import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]


def describe(threads: int, *, device: str = "cpu", packages: Sequence[str] = ()) -> dict[str, Any]:
    """Return device ("cpu" or "cuda"), CPU threads, versions and commit.

    The versions are those of `versions` and of `packages` where they are installed.
    """
    import torch

    known, name = versions(), cpu_name()
    if device == "cuda":
        name = torch.cuda.get_device_name()
        known["cuda"] = str(torch.version.cuda)
    for package in packages:
        with suppress(importlib.metadata.PackageNotFoundError):
            known[package] = importlib.metadata.version(package)
    return {
        "device": name,
        "cores": os.cpu_count(),
        "threads": threads,
        "versions": known,
        "commit": _commit(),
    }


def versions() -> dict[str, str]:
    """Return the versions that every figure depends on."""
    import torch

    from recognition import __version__

    return {
        "partialfc": __version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
    }


def cpu_name() -> str:
    """Return the processor's name as the system has it."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _commit() -> str | None:
    """Return the commit of this clone, marked where files differ from it; None without git."""
    command = ["git", "describe", "--always", "--exclude=*", "--abbrev=12", "--dirty= with changes"]
    try:
        found = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.stdout.strip()
