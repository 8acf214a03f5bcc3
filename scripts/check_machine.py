"""Check a machine with a GPU: whether everything works on it, and what is slower than expected.

The first thing to run on a new machine. Takes at most 9 minutes; each step runs in a process of
its own with its own time limit, and the next one follows a failure. Prints a line per step, and
writes page.md, results.json and a log per step to the output folder. The exit status is 0 if
nothing failed, 1 if a step failed, and 2 if there is no GPU.

    python scripts/check_machine.py
    python scripts/check_machine.py --quick
    python scripts/check_machine.py --only head network
    python scripts/check_machine.py --tiny
"""

import argparse
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from scripts.benchmarks.common.machine import describe
from scripts.common.command import command, exit_with, make_parser
from scripts.machine import (
    gpu_tests,
    hardware,
    head_speed,
    network,
    page,
    storage,
    training,
    variants,
    waits,
)
from scripts.machine.process import Order, Outcome, interruptible, run_step
from scripts.machine.step import FAILED, FULL, QUICK, SKIPPED, TINY, Step, Verdict

# Seconds for all steps together. The steps of a scale have about as many in their own limits, but
# the last one, which gets what the others leave.
TOTAL = {FULL: 535.0, QUICK: 85.0, TINY: 225.0}
SCRATCH = "scratch-"
LEAST = 5.0  # seconds, below which a step is not begun

STEPS = (
    Step("hardware", "Versions and hardware", hardware.run, {FULL: 20, QUICK: 15, TINY: 90}),
    Step("variants", "Variants of the head against the CPU", variants.run,
         {FULL: 60, QUICK: 20, TINY: 90}),
    Step("waits", "Where the host waits for the GPU", waits.run, {FULL: 30, QUICK: 15, TINY: 90}),
    Step("head", "The head's step at size", head_speed.run, {FULL: 90, QUICK: 25, TINY: 90}),
    Step("data", "The demo's data", training.data, {FULL: 45, QUICK: 15, TINY: 90}),
    Step("network", "A training step next to plain PyTorch", network.run,
         {FULL: 60, QUICK: 30, TINY: 90}),
    Step("compiled", "A compiled training step", network.compiled, {FULL: 110}),
    Step("loader", "The loader", storage.loader, {FULL: 20, TINY: 90}),
    Step("bf16", "The demo in bf16", training.bf16, {FULL: 45, QUICK: 25, TINY: 90}),
    Step("fp16", "The demo in fp16", training.fp16, {FULL: 45, TINY: 90}),
    Step("ranks", "All GPUs under torchrun, and a resume", training.ranks, {FULL: 50, TINY: 90}),
    Step("checkpoint", "Checkpoints", storage.checkpoint, {FULL: 25, TINY: 90}),
    Step("tests", "The tests that need a GPU", gpu_tests.run, {FULL: 150, TINY: 90}),
)  # fmt: skip

parser = make_parser(__doc__)
add = parser.add_argument
scale = parser.add_mutually_exclusive_group()
scale.add_argument("--quick", action="store_true", help="90 seconds: fewer steps, smaller sizes")
scale.add_argument("--tiny", action="store_true", help="rehearse the steps at toy sizes on a CPU")
add("--only", nargs="+", metavar="STEP", choices=[step.name for step in STEPS],
    help="these steps alone: " + ", ".join(step.name for step in STEPS))  # fmt: skip
add("--output", type=Path, default=Path("runs/check_machine"), help="folder of page, figures and "
    "logs; those of an earlier check are replaced")  # fmt: skip
add("--device", choices=["cuda", "cpu"], help="device; cuda by default, with --tiny cpu")


@command(parser)
def main(options: argparse.Namespace) -> int:
    """Run the steps, and report."""
    chosen = TINY if options.tiny else QUICK if options.quick else FULL
    device = options.device or ("cpu" if chosen == TINY else "cuda")
    if device == "cpu" and chosen != TINY:
        raise ValueError("--device cpu: expected with --tiny alone, whose sizes a CPU can do")
    if device == "cuda" and not torch.cuda.is_available():
        print("There is no GPU that torch can use here; --tiny rehearses the check on a CPU.",
              file=sys.stderr)  # fmt: skip
        return 2
    names = options.only or [step.name for step in STEPS]
    steps = [step for step in STEPS if step.name in names and chosen in step.limits]
    if not steps:
        raise ValueError(f"--only {' '.join(names)} with --quick: none of these is part of it")
    report = {
        "command": shlex.join(["python", "scripts/check_machine.py", *options.given]),
        "machine": describe(torch.get_num_threads()),
        "settings": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "scale": chosen,
    }
    return check(steps, options.output, device, report)


def check(steps: list[Step], output: Path, device: str, report: dict[str, Any]) -> int:
    """Run the steps one after another; after each, the page is written anew."""
    output.mkdir(parents=True, exist_ok=True)
    for file in output.glob("*.log"):
        file.unlink()
    for folder in output.glob(f"{SCRATCH}*"):  # of a check that was killed
        shutil.rmtree(folder, ignore_errors=True)
    outcomes: list[Outcome] = []
    problem = None
    started, total = time.monotonic(), TOTAL[report["scale"]]
    with interruptible(), _scratch(output) as folder:
        for step in steps:
            left = total - (time.monotonic() - started)
            seconds = min(step.limits[report["scale"]], left)
            if seconds < LEAST:
                outcomes.append(Outcome(step, Verdict(SKIPPED, "no time was left for it"), 0.0))
            else:
                order = Order(step.run, device, report["scale"], folder, seconds)
                outcomes.append(run_step(step, order, output / f"{step.name}.log"))
            report["machine"] = outcomes[-1].facts.get("machine", report["machine"])
            print(page.line(outcomes[-1]), flush=True)
            problem = page.write(report, outcomes, output)
    print(f"\n{page.overall(outcomes, output, report['scale'])}")
    if problem is not None:
        raise ValueError(f"{output}: page and results cannot be written: {problem}")
    print(f"{output / 'page.md'}, {output / 'results.json'}")
    return int(any(one.verdict.status == FAILED for one in outcomes))


@contextmanager
def _scratch(output: Path) -> Iterator[Path]:
    """Make a folder on the disk of the output, where checkpoints will be, and remove it."""
    folder = Path(tempfile.mkdtemp(prefix=SCRATCH, dir=output))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    exit_with(main, "interrupted; page.md of the output folder has the steps until now")
