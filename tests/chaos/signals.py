"""Signals to a whole run at random moments, each followed by a resume to the end.

    python -m tests.chaos.signals                      each signal once, on one rank and on two
    python -m tests.chaos.signals --times 20           an hour of it

A run that nothing disturbs comes first. Whatever ends the others, a run that goes on with `--resume
auto` must end with the same figures, and a signal that asks for a save must lose no step at all.
Prints one line per signal; ends with 1 if one of them did harm.
"""

import argparse
import json
import random
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from scripts.compare_runs import MEASURED
from tests.chaos.attack import HarmError
from tests.chaos.soak import parse as soak_options
from tests.chaos.soak import write_inputs
from tests.launch import Ranks, train_well

STEPS = 60
# Those that ask for a save end with 128 + their number, on every rank.
ASKING = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--times", type=int, default=1, help="tries per signal and ranks")
    parser.add_argument("--seed", type=int, default=0, help="decides the moments")
    options = parser.parse_args(arguments)
    dice, harmful = random.Random(options.seed), 0
    with tempfile.TemporaryDirectory() as work:
        config = write_inputs(Path(work), soak_options(["--batch", "16", "--save-every", "20"]))
        command = [
            "--config", str(config), "--set", f"train.steps={STEPS}", "--set", "log.every_steps=1"
        ]  # fmt: skip
        for ranks in (1, 2):
            whole = Path(work) / f"whole_{ranks}"
            train_well([*command, "--output", str(whole)], ranks=ranks)
            for number in (*ASKING, signal.SIGKILL):
                harm = []
                for count in range(options.times):
                    run = Path(work) / f"{number.name}_{ranks}_{count}"
                    try:
                        disturb([*command, "--output", str(run)], run, ranks, number, dice)
                        train_well(
                            [*command, "--output", str(run), "--resume", "auto"], ranks=ranks
                        )
                        if figures(run) != figures(whole):
                            raise HarmError("the figures differ from those of a run left alone")
                    except AssertionError as error:
                        harm.append(str(error)[-300:])
                print(f"{number.name}, {ranks} rank(s): {options.times} tries, {len(harm)} harm")
                print("".join(f"    {text}\n" for text in harm), end="", flush=True)
                harmful += bool(harm)
    return 1 if harmful else 0


def disturb(
    command: list[str], run: Path, ranks: int, number: signal.Signals, dice: random.Random
) -> None:
    """Start the run, send the signal to one rank at some moment, and look at how all end."""
    target, wanted = dice.randrange(ranks), dice.randrange(1, STEPS * 2 // 3)
    with Ranks(command, ranks) as running:
        while last_step(run) < wanted and running.processes[target].is_alive():
            time.sleep(0.01)
        time.sleep(dice.uniform(0, 0.1))
        running.send_signal(target, number)
        ended = running.wait()
    asked = number in ASKING
    codes, expected = [rank.code for rank in ended], 128 + number if asked else -number
    if codes[target] != expected or (asked and set(codes) != {expected}) or 0 in codes:
        raise HarmError(f"ended with {codes}, expected {expected}: {ended[0].output[-300:]}")
    if asked:
        saved = json.loads(newest(run).read_text())["step"]
        if saved != last_step(run):
            raise HarmError(f"step {saved} is saved, step {last_step(run)} was done")


def newest(run: Path) -> Path:
    """Return `run.json` of the newest checkpoint."""
    return max((run / "checkpoints").glob("step_*/run.json"))


def last_step(run: Path) -> int:
    """Return the last step in `metrics.jsonl`, 0 if there is none yet."""
    return max((step for step, _ in records(run)), default=0)


def figures(run: Path) -> list[tuple[int, dict[str, object]]]:
    """Return what the run measured of its training, step by step."""
    return [
        (step, {name: value for name, value in record.items() if name not in MEASURED})
        for step, record in records(run)
    ]


def records(run: Path) -> list[tuple[int, dict[str, object]]]:
    """Return the training records that are written in full, with their steps."""
    file = run / "metrics.jsonl"
    lines = file.read_text().split("\n")[:-1] if file.exists() else []
    found = [json.loads(line) for line in lines]
    return [(item["step"], item) for item in found if item["event"] == "train"]


if __name__ == "__main__":
    sys.exit(main())
