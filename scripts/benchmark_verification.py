"""Verify networks on sets of faces by the protocols of the field.

A network is a run folder, a checkpoint folder, a weight file with the published names or those of
AdaFace or CVLface, a file of ONNX, torch.export (.pt2) or safetensors, or the folder of an export.
Prints a table, and writes all figures, the protocol and the hashes of all files to a new JSON file,
and a page with tables, curves and the hardest faces next to it. Embeddings are kept by the hashes
of model and images: the next protocol on them costs no forward pass. Several ranks (torchrun) share
the embedding.

    python scripts/benchmark_verification.py --model runs/demo --sets datasets/demo/lfw.bin
    python scripts/benchmark_verification.py --model r50.onnx --suite configs/suites/standard.yaml
    python scripts/benchmark_verification.py --model a.pt --compare b.pt --folder sets --sets lfw
"""

import argparse
import json
import logging
import shlex
import time
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
import torch
from tqdm import tqdm

from data.records.locations import default_cache_folder
from eval.report.page import render
from eval.results import HashedFile, Run
from eval.suites.images import Embedder
from eval.suites.models import LoadedModel, load_models
from eval.suites.run import (
    PROTOCOL,
    OpenSet,
    faces_to_show,
    open_suite,
    run_suite,
    with_folder,
)
from eval.suites.settings import Suite, pair_sets, read_suite
from eval.suites.table import table
from recognition.distributed import World, choose_device, current, process_group
from recognition.failure import together
from recognition.inference import PixelFormat
from recognition.inference.description import sha256
from scripts.benchmarks.common.machine import cpu_name, versions
from scripts.common.command import command, exit_with, make_parser

# The other ranks wait while rank 0 computes figures, minutes for all modes of IJB-C.
WAIT_SECONDS: Final = 6 * 3600

parser = make_parser(__doc__)
add = parser.add_argument
add("--model", type=Path, required=True, help="run, checkpoint or export, or a network's file")
add("--compare", type=Path, nargs="+", default=[], help="more models, to compare with --model")
what = parser.add_mutually_exclusive_group(required=True)
what.add_argument("--suite", type=Path, help="YAML file of sets and protocols")
what.add_argument("--sets", nargs="+", help=".bin files, or names of sets in --folder")
add("--folder", type=Path, help="folder of the sets, in place of the suite's own")
add(
    "--checkpoint",
    choices=["latest", "best"],
    default="latest",
    help="which checkpoint of a run folder",
)
add(
    "--weights",
    choices=["raw", "ema"],
    default="raw",
    help="which weights of a checkpoint: as trained, or their moving average (train.ema)",
)
add("--image-size", type=int, help="pixels per side, if the model does not state it (default: 112)")
add("--mean", type=float, help="value to subtract from the pixels, 0 to 255 (default: 127.5)")
add("--std", type=float, help="value to divide them by, after that (default: 127.5)")
add("--channels", choices=["rgb", "bgr"], help="channel order that the model expects; with none of "
    "these three, what the file states (default: rgb)")  # fmt: skip
add("--batch-size", type=int, default=64, help="images per batch and rank")
add("--device", choices=["auto", "cpu", "cuda"], default="auto", help="device to run on")
cache = parser.add_mutually_exclusive_group()
cache.add_argument(
    "--cache", type=Path, help="folder of embeddings (default: embeddings in the user's cache)"
)
cache.add_argument("--no-cache", action="store_true", help="keep no embeddings, and use none")
add(
    "--output",
    type=Path,
    default=Path("results.json"),
    help="new file for all figures; the page stands next to it, with the ending .html",
)
add("--no-faces", action="store_true", help="show no images of the sets on the page")


def read_sets(options: argparse.Namespace) -> Suite:
    """Return the suite, or one of the sets that are given by name or path."""
    if options.suite is not None:
        return with_folder(read_suite(options.suite), options.folder)
    return Suite(pairs=pair_sets(options.sets, options.folder))


def describe(options: argparse.Namespace, suite: Suite, device: torch.device, ranks: int) -> Run:
    """Return what someone else needs to get the same figures."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name()
    file = options.suite
    return Run(
        command=shlex.join(["python", "scripts/benchmark_verification.py", *options.given]),
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        device=f"{device.type}: {name}",
        ranks=ranks,
        versions={**versions(), "numpy": np.__version__},
        suite=None if file is None else HashedFile(str(file), sha256(file)),
        replicates=suite.replicates,
        seed=suite.seed,
        protocol=dict(PROTOCOL),
    )


def check_options(options: argparse.Namespace) -> None:
    """Raise `ValueError`, before the work, for what would fail after it."""
    path = options.output
    if path.suffix == ".html":
        raise ValueError(f"--output {path} is the page's name: expected another ending, as .json")
    for file in (path, path.with_suffix(".html")):
        if file.exists():
            raise ValueError(
                f"--output {path}: {file} exists already: delete it, or write to another file "
                "with --output"
            )
    if not path.parent.is_dir():
        raise ValueError(f"--output {path}: folder {path.parent} does not exist: create it first")
    if options.batch_size < 1:
        raise ValueError(f"--batch-size is {options.batch_size}: expected at least 1 image")


def cache_folder(options: argparse.Namespace) -> Path | None:
    """Return where embeddings are kept; None for nowhere."""
    if options.no_cache:
        return None
    folder: Path | None = options.cache
    return folder or default_cache_folder() / "embeddings"


@command(parser)
def main(options: argparse.Namespace) -> None:
    """Verify, print and write."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    world = current()
    try:
        device, _ = choose_device(options.device, world)
        with process_group(device, WAIT_SECONDS):
            # Errors are raised on all ranks where they occur, those of the report here.
            together(partial(_verify, options, device, world))
    except (ValueError, OSError):
        if world.is_main:
            raise
        time.sleep(1.0)  # torchrun stops the others when one ends: rank 0 prints first
        raise SystemExit(1) from None


def _open(
    options: argparse.Namespace, device: torch.device
) -> tuple[list[LoadedModel], Suite, list[OpenSet]]:
    check_options(options)
    stated = {name: getattr(options, name) for name in ("mean", "std", "channels")}
    pixels = {name: value for name, value in stated.items() if value is not None}
    models = load_models(
        [options.model, *options.compare],
        device,
        pixels=PixelFormat(**pixels) if pixels else None,
        image_size=options.image_size,
        which=options.checkpoint,
        weights=options.weights,
    )
    suite = read_sets(options)
    return models, suite, open_suite(suite)


def _verify(options: argparse.Namespace, device: torch.device, world: World) -> None:
    # The figures must not depend on the kind of GPU: no TF32 in convolutions.
    torch.backends.cudnn.allow_tf32 = False
    started = time.perf_counter()
    models, suite, sets = together(partial(_open, options, device))
    total = len(models) * (1 + suite.flip) * sum(len(item.images.unique) for item in sets)
    with tqdm(
        total=total, unit="image", disable=None if world.is_main else True, leave=False
    ) as bar:
        embed = Embedder(
            device,
            world,
            cache_folder(options),
            options.batch_size,
            suite.flip,
            lambda count: bar.update(count * world.size),
        )
        run = describe(options, suite, device, world.size)
        results = run_suite(suite, sets, models, embed, run)
    if results is None:
        return
    print(table(results))
    text = json.dumps(results.to_json(), indent=1, ensure_ascii=False, allow_nan=False)
    options.output.write_text(text + "\n", encoding="utf-8")
    page = options.output.with_suffix(".html")
    faces = {} if options.no_faces else faces_to_show(results, sets)
    page.write_text(render(json.loads(text), faces), encoding="utf-8")
    passes = sum(model.cost.forward_passes for model in results.models)
    seconds = time.perf_counter() - started
    print(
        f"\n{passes:,} forward passes in {seconds:.1f} s on {device}; all figures: "
        f"{options.output}, {page}"
    )


if __name__ == "__main__":
    exit_with(main)
