"""Ranks of `scripts.benchmark_verification` of which one fails: all end, with one message."""

import contextlib
import errno
import io
import os
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock, patch

import pytest

from eval.suites.models import LoadedModel, load_models
from scripts import benchmark_verification
from tests.distributed_harness import run_ranks
from tests.recognition.inference.test_onnx_model import write_network

pytestmark = pytest.mark.slow

BINS = Path(__file__).parents[2] / "fixtures" / "bins"
NO_SPACE = OSError(errno.ENOSPC, "No space left on device", "results.json")
# What fails: its place in the command, the error, and what the message must name.
FAILURES = {
    "reading": ("open_suite", ValueError("lfw.bin is damaged"), "lfw.bin is damaged"),
    "embedding": ("load_models", None, "the model returned"),
    "writing": ("table", NO_SPACE, "results.json"),
}


def _bad_model(*arguments: Any, **options: Any) -> list[LoadedModel]:
    (model,) = load_models(*arguments, **options)
    return [replace(model, embed=lambda images: images)]


def _run(arguments: list[str], what: str, failing: int) -> tuple[int, str]:
    """Return the exit status and stderr of this rank, of which `what` fails on rank `failing`."""
    place, error, _ = FAILURES[what]
    change = Mock(side_effect=error or _bad_model)
    broken = (
        patch.object(benchmark_verification, place, change)
        if int(os.environ["RANK"]) == failing
        else None
    )
    stderr = io.StringIO()
    with contextlib.redirect_stderr(stderr), broken or contextlib.nullcontext():
        try:
            status = benchmark_verification.main(arguments)
        except SystemExit as end:
            status = int(str(end.code))
    return status, stderr.getvalue()


@pytest.mark.parametrize(
    ("what", "failing"),
    [("reading", 0), ("embedding", 1), ("writing", 0)],
)
def test_a_rank_that_fails_ends_all_with_one_message(
    tmp_path: Path, what: str, failing: int
) -> None:
    model = write_network(tmp_path / "net.onnx", ("n", 3, "h", "w"))
    arguments = ["--model", model, "--sets", BINS / "py3_list.bin", "--no-cache"]
    arguments += ["--device", "cpu", "--output", tmp_path / "results.json"]
    ended = run_ranks(
        _run, 2, [str(one) for one in arguments], what, failing, timeout=100, join_group=False
    )
    (first, message), (second, silent) = ended
    assert (first, second) == (1, 1)
    assert FAILURES[what][2] in message
    assert message.count("error:") == 1
    assert ("rank 1" in message) == (failing == 1)
    assert "error:" not in silent
    assert not (tmp_path / "results.json").exists()
