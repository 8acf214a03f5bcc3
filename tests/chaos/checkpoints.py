"""Kills, disk errors, flipped bits and hostile folders against the checkpoints of a run.

    python -m tests.chaos.checkpoints          minutes: a sample of each attack
    python -m tests.chaos.checkpoints --all    every operation, every file, more ranks, more bits

Prints one line per attack: how often it was tried and how often it did harm. Ends with 1 if it ever
did. Harm is a checkpoint lost that was complete, values loaded that are not those that were saved,
code run by reading, a rank that hangs, or an error of the disk that the message does not name.
"""

import argparse
import random
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from recognition.checkpoint import CheckpointError, backbone_file
from recognition.distributed import World
from tests.chaos.attack import Attack, HarmError
from tests.chaos.faults import ERRORS, Faults
from tests.chaos.hostile import hostile_folders
from tests.chaos.small_runs import go_back, load, save


@dataclass(frozen=True)
class Scenario:
    """What a run has saved, what it does when it is interrupted, and what may be found then."""

    before: tuple[int, ...]  # steps saved by attempt 0
    step: int  # to be saved now
    attempt: int  # by which this is done
    allowed: set[tuple[int, int]]  # (step, attempt) that a resumed run may find
    back_to: int | None = None  # the step from which it is resumed first

    def prepare(self, folder: Path, world: World) -> None:
        """Make the run folder."""
        for step in self.before:
            save(folder, world, step)

    def act(self, folder: Path, world: World) -> None:
        """Do what is interrupted."""
        if self.back_to is not None:
            go_back(folder, world, self.back_to)
        save(folder, world, self.step, self.attempt)


SCENARIOS = {
    "a first save": Scenario((1,), 2, 0, {(1, 0), (2, 0)}),
    "a save that prunes": Scenario((1, 2, 3), 4, 0, {(3, 0), (4, 0)}),
    "a step saved again": Scenario((1, 2), 2, 1, {(2, 0), (2, 1)}),
    "going back, and a save": Scenario((1, 2, 3), 3, 1, {(2, 0), (3, 0), (3, 1)}, back_to=2),
}


def faults_at_every_operation(
    attack: Attack, name: str, *, ranks: int, rank: int, errors: tuple[int | None, ...], every: int
) -> None:
    """Let each file operation of one rank fail in turn, then resume.

    The first and every eighth time on 1, 2 and 3 ranks, otherwise on one.
    """
    scenario = SCENARIOS[name]
    before = attack.work / "before"
    attack.well(before, ranks, lambda world: scenario.prepare(before, world))

    def run(folder: Path, at: int, error: int | None) -> list[int]:
        shutil.copytree(before, folder, dirs_exist_ok=True)

        def failing(world: World) -> None:
            faults = Faults(folder, at, error)
            if world.rank == rank:
                faults.arm()
            scenario.act(folder, world)
            if world.rank == rank:
                (attack.work / "count").write_text(str(faults.count))

        return attack.ranks(folder, ranks, failing)

    attack.clean()
    run(attack.folder, at=0, error=None)
    for at in range(1, int((attack.work / "count").read_text()) + 1, every):
        for error in errors:

            def attempt(folder: Path, at: int = at, error: int | None = error) -> None:
                codes = run(folder, at, error)
                if error is None and codes[rank] != -9:
                    raise HarmError(f"ended with {codes}, not killed")
                last = attack.log.read_text().strip().rpartition("\n")[2]
                if error is not None and any(codes) and "CheckpointError" not in last:
                    raise HarmError(f"no message for the user: {last[:200]}")
                for count in (1, 2, 3) if (at - 1) % (8 * every) == 0 else (1,):
                    copy = attack.work / f"copy_{count}"
                    shutil.rmtree(copy, ignore_errors=True)
                    shutil.copytree(folder, copy)
                    attack.well(copy, count, partial(resume, copy, scenario.allowed))

            attack.attempt(f"operation {at}, {error or 'killed'}", attempt)


def resume(folder: Path, allowed: set[tuple[int, int]], world: World) -> None:
    """Resume as the next attempt would, and save once more."""
    found = load(folder, world)
    if found not in allowed:
        raise HarmError(f"found {found}, expected one of {sorted(allowed)}")
    save(folder, world, 9, attempt=2)
    if load(folder, world) != (9, 2):
        raise HarmError("the save after it is not found")


def flipped_bits(attack: Attack, per_file: int) -> None:
    """Change single bits, zero pages and cut off ends in each file of the newest checkpoint."""
    source = attack.work / "source"
    shutil.rmtree(source, ignore_errors=True)
    source.mkdir(parents=True)
    attack.well(source, 2, partial(Scenario((1, 2), 3, 0, set()).prepare, source))
    newest_folder = source / "checkpoints" / "step_00000002"
    for file in sorted(path for path in newest_folder.rglob("*") if path.is_file()):
        for label, data in damaged_copies(file.read_bytes(), per_file, seed=file.name):

            def attempt(folder: Path, file: Path = file, data: bytes = data) -> None:
                shutil.copytree(source, folder, dirs_exist_ok=True)
                (folder / file.relative_to(source)).write_bytes(data)

                def check(world: World) -> None:
                    if load(folder, world) not in {(1, 0), (2, 0)}:
                        raise HarmError("nothing was found")
                    weights = folder / "checkpoints" / "step_00000002"
                    try:
                        loaded = torch.load(backbone_file(weights), weights_only=True)
                    except CheckpointError:
                        return
                    if not (loaded["layer.weight"] == 2.0).all():
                        raise HarmError("backbone.pt loads with other weights")

                attack.well(folder, 1, check)

            attack.attempt(f"{file.name}: {label}", attempt)


def damaged_copies(data: bytes, count: int, seed: str) -> Iterator[tuple[str, bytes]]:
    """Yield damaged copies of a file's content, with a label."""
    dice = random.Random(seed)
    for _ in range(count):
        place, bit = dice.randrange(len(data)), dice.randrange(8)
        flipped = bytearray(data)
        flipped[place] ^= 1 << bit
        yield f"bit {bit} of byte {place}", bytes(flipped)
    start = dice.randrange(len(data))
    zeroed = bytearray(data)
    zeroed[start : start + 4096] = bytes(len(zeroed[start : start + 4096]))
    if zeroed != data:
        yield "a zeroed page", bytes(zeroed)
    yield "cut off", data[: dice.randrange(len(data))]
    yield "empty", b""


def main(arguments: list[str] | None = None) -> int:
    """Run the attacks; return 1 if one of them did harm."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--all", action="store_true", help="every operation, more ranks, more bits")
    parser.add_argument(
        "--every", type=int, default=1, help="with --all: of so many operations one"
    )
    parser.add_argument("--only", default="", help="attacks with this text in their name")
    options = parser.parse_args(arguments)
    attacks = planned_attacks(options.every, everything=options.all)
    harmful = 0
    print(f"{'attack':<50} {'tries':>6} {'harm':>6}")
    for name, run in attacks.items():
        if options.only not in name:
            continue
        with tempfile.TemporaryDirectory() as work:
            attack = Attack(name, Path(work))
            run(attack)
        print(f"{name:<50} {attack.tries:>6} {len(attack.harm):>6}", flush=True)
        for text in attack.harm[:5]:
            print(f"    {text}")
        harmful += bool(attack.harm)
    return 1 if harmful else 0


def planned_attacks(every: int, *, everything: bool) -> dict[str, Callable[[Attack], None]]:
    """Return the attacks by name."""
    attacks: dict[str, Callable[[Attack], None]] = {}
    for name in SCENARIOS:
        for ranks, rank in ((1, 0), (2, 0), (2, 1)) if everything else ((1, 0),):
            attacks[f"{name}: killed, rank {rank} of {ranks}"] = partial(
                faults_at_every_operation,
                name=name, ranks=ranks, rank=rank, errors=(None,),
                every=every if everything else 24,
            )  # fmt: skip
            attacks[f"{name}: disk errors, rank {rank} of {ranks}"] = partial(
                faults_at_every_operation,
                name=name, ranks=ranks, rank=rank,
                errors=ERRORS if everything else ERRORS[:1], every=every if everything else 48,
            )  # fmt: skip
    attacks["damaged files"] = partial(flipped_bits, per_file=300 if everything else 4)
    attacks["hostile folders"] = hostile_folders
    return attacks


if __name__ == "__main__":
    sys.exit(main())
