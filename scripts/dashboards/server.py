"""TensorBoard and a browser without a window, for as long as somebody looks at pages."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def serve(logdir: Path) -> Iterator[str]:
    """Start TensorBoard on a folder, at a free port of this machine alone; yield its address."""
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(logdir)]
    server = subprocess.Popen(
        [*command, "--host", "127.0.0.1", "--port", "0"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert server.stderr is not None
        said = []
        for line in server.stderr:
            said.append(line)
            if found := re.search(r"http://127\.0\.0\.1:\d+", line):
                yield found[0]
                return
        raise ValueError(f"TensorBoard did not start: {''.join(said).strip()}")
    finally:
        server.terminate()
        server.communicate()


def find_browser() -> str | None:
    """Return the path of Chromium, None if there is none."""
    return shutil.which("chromium") or shutil.which("google-chrome")


@contextmanager
def browse() -> Iterator[Any]:
    """Yield a page of a browser. Raises `ValueError` where there is no browser."""
    from playwright.sync_api import sync_playwright

    browser = find_browser()
    if browser is None:
        raise ValueError("no chromium found: install it, as by apt-get install chromium")
    with sync_playwright() as playwright:
        # Where it runs as root, as in a container, it has no sandbox.
        running = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        try:
            yield running.new_page()
        finally:
            running.close()
