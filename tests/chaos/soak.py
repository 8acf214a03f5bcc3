"""Trains for thousands of small steps and watches the process: memory, descriptors, threads.

    python -m tests.chaos.soak                 5,000 steps, some minutes on two quiet cores
    python -m tests.chaos.soak --steps 200 --warm-up 80 --every 10

Runs `train.py` itself, with saves, verification, and images stored at twice the side at which they
are trained, and looks at its process from outside, through `/proc` (Linux). Writes one line of
`samples.csv` per look. Ends with 1 if after the warm-up the resident set grew by more than its
bound, descriptors or threads grew at all, or training failed.
"""

import argparse
import csv
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np

from data.pairs.bin_file import write_pair_file
from data.records.writer import write_face_records
from tests.conftest import TINY, picture
from tests.launch import ROOT

IDENTITIES, IMAGES = 12, 8
IMAGE_SIZE = 32  # of training; those on disk have twice the side
POLL_SECONDS = 0.05
MIN_SAMPLES = 6  # after the warm-up: two halves of three


@dataclass(frozen=True)
class Sample:
    """What the process held soon after a step."""

    step: int
    rss_mib: float
    descriptors: int
    threads: int


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    options = parse(arguments)
    folder = Path(options.output or tempfile.mkdtemp(prefix="soak-"))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        samples = soak(folder, options)
        print(f"{len(samples)} samples, {folder / 'samples.csv' if options.output else 'not kept'}")
        found = problems(samples, options.warm_up, options.growth_mib)
    finally:
        if options.output is None:
            shutil.rmtree(folder)
    for line in found:
        print(line)
    return 1 if found else 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=5000, help="steps to train")
    parser.add_argument(
        "--warm-up",
        type=int,
        default=500,
        help="steps before growth counts: caches fill, threads start",
    )
    parser.add_argument("--every", type=int, default=50, help="steps between two samples")
    parser.add_argument(
        "--save-every", type=int, default=100, help="steps between two saves and verifications"
    )
    parser.add_argument("--batch", type=int, default=64, help="images per step, all resized")
    parser.add_argument(
        "--growth-mib", type=float, default=20, help="growth of the resident set that is allowed"
    )
    parser.add_argument("--output", type=Path, help="keep data, run and samples.csv in this folder")
    options = parser.parse_args(arguments)
    # Growth is measured from a second save on: the first of each kind allocates for all.
    options.warm_up = max(options.warm_up, options.save_every + options.every)
    if options.steps < options.warm_up + MIN_SAMPLES * options.every:
        parser.error(
            f"--steps {options.steps} leaves fewer than {MIN_SAMPLES} samples behind a warm-up of "
            f"{options.warm_up} steps: raise --steps, or lower --warm-up, --save-every or --every"
        )
    return options


def soak(folder: Path, options: argparse.Namespace) -> list[Sample]:
    """Train in a process of its own and return its samples, which are also in `samples.csv`.

    Raises `RuntimeError` with the end of the output if training fails.
    """
    config = write_inputs(folder, options)
    output = folder / "output.txt"
    with output.open("w") as stream, (folder / "samples.csv").open("w", newline="") as table:
        writer = csv.DictWriter(table, [field.name for field in fields(Sample)])
        writer.writeheader()
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "train.py"), "--config", str(config)],
            cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
            stdout=stream, stderr=subprocess.STDOUT,
        )  # fmt: skip
        samples = []
        try:
            for sample in watch(process, folder / "run" / "metrics.jsonl", options.every):
                samples.append(sample)
                writer.writerow(asdict(sample))
                table.flush()
            code = process.wait()
        finally:
            process.kill()
            process.wait()
    if code != 0:
        raise RuntimeError(
            f"train.py ended with {code} after {len(samples)} samples: {output.read_text()[-3000:]}"
        )
    return samples


def write_inputs(folder: Path, options: argparse.Namespace) -> Path:
    """Write images, pairs and a config; return the config's path."""
    side = 2 * IMAGE_SIZE
    faces = ((i, picture(i, n, side)) for i in range(IDENTITIES) for n in range(IMAGES))
    write_face_records(folder / "data", faces, image_size=side)
    same = np.arange(40) % 2 == 0
    pairs = [
        picture(500 + pair + 100 * (not alike), half, side)
        for pair, alike in enumerate(same.tolist())
        for half in (0, 1)
    ]
    write_pair_file(folder / "data" / "pairs.bin", pairs, same)
    path = folder / "soak.yaml"
    path.write_text(
        f"""
base: {TINY}
output: {folder / "run"}
data: {{train: {folder / "data"}}}
optimizer: {{lr: 0.01}}
train: {{global_batch_size: {options.batch}, steps: {options.steps}}}
verification: {{every_steps: {options.save_every}}}
checkpoint: {{every_steps: {options.save_every}}}
log: {{every_steps: {max(1, options.every // 5)}}}
"""
    )
    return path


def watch(process: subprocess.Popen[bytes], metrics: Path, every: int) -> Iterator[Sample]:
    """Yield a sample after each `every` steps, as soon as the run's metrics show them."""
    due, position, text = every, 0, b""
    while process.poll() is None:
        time.sleep(POLL_SECONDS)
        if not metrics.exists():
            continue
        with metrics.open("rb") as stream:
            stream.seek(position)
            text += stream.read()
            position = stream.tell()
        *lines, text = text.split(b"\n")  # the last line may not be complete yet
        step = max((int(line.split(b'"step": ')[1].split(b",")[0]) for line in lines), default=0)
        if step >= due:
            sample = look(process.pid, step)
            if sample is None:
                return
            yield sample
            due = step - step % every + every


def look(pid: int, step: int) -> Sample | None:
    """Return what a process holds now, and nothing if it has ended."""
    proc = Path("/proc") / str(pid)
    try:
        pages = int((proc / "statm").read_text().split()[1])
        counts = [len(list((proc / name).iterdir())) for name in ("fd", "task")]
    except OSError:
        return None
    return Sample(step, pages * os.sysconf("SC_PAGE_SIZE") / 2**20, *counts) if pages else None


def problems(samples: Sequence[Sample], warm_up: int, growth_mib: float) -> list[str]:
    """Return what grew after the warm-up, in words; nothing if nothing did.

    The resident set goes up and down by 30 MiB with batches in flight, so its slope is the median
    of those between any two samples, which a few low ones do not change. Descriptors and threads
    come and go with saves and verification: they grow if at all times of the second half there are
    more than at the least of the first.
    """
    steady = [sample for sample in samples if sample.step > warm_up]
    if len(steady) < MIN_SAMPLES:
        return [
            f"{len(steady)} samples after step {warm_up}, expected at least {MIN_SAMPLES}: steps "
            "passed faster than they were looked at; train more of them"
        ]
    step = np.array([sample.step for sample in steady], float)
    rss = np.array([sample.rss_mib for sample in steady])
    one, other = np.triu_indices(len(steady), 1)
    slope = float(np.median((rss[other] - rss[one]) / (step[other] - step[one])))
    grown = slope * (step[-1] - step[0])
    print(
        f"steps {step[0]:.0f} to {step[-1]:.0f}: resident set {rss[0]:.1f} to {rss[-1]:.1f} MiB, "
        f"by the median slope {grown:+.1f} MiB"
    )
    found = []
    if grown > growth_mib:
        found.append(
            f"the resident set grew by {grown:.1f} MiB, {slope * 2**20:,.0f} bytes per step, and "
            f"{growth_mib:g} MiB are allowed: find what is kept or leaked per step"
        )
    half = len(steady) // 2
    for name in ("descriptors", "threads"):
        first, second = (
            min(getattr(sample, name) for sample in part) for part in (steady[:half], steady[half:])
        )
        print(f"{name}: at least {first} in the first half, {second} in the second")
        if second > first:
            found.append(
                f"{name} grew from {first} to {second} and must not grow: find what is opened or "
                "started again and again, and never closed"
            )
    return found


if __name__ == "__main__":
    sys.exit(main())
