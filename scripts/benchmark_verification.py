"""Verify a network on verification sets by the published protocol.

The network is a run folder, a checkpoint folder, a weight file with the published names, or an ONNX
file. Prints a table, and writes all figures, the protocol and the hashes of all files to a new JSON
file.

    python scripts/benchmark_verification.py --model runs/demo --sets datasets/demo/lfw.bin
    python scripts/benchmark_verification.py --model r50.onnx --folder sets --sets lfw cfp_fp
"""

import argparse
import hashlib
import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from backbones import build_for_weights, read_weights
from data.augmentations.augment import MID_GREY
from eval.embedding import Model
from eval.onnx_model import OnnxModel
from eval.verification import RATES, VerificationResult
from eval.verifier import Verifier
from recognition.checkpoint import backbone_file, read_metadata
from recognition.distributed import World, choose_device
from scripts.benchmarks.common.machine import versions
from scripts.common.command import command, exit_with, make_parser

PROTOCOL: Final = {
    "embedding": "f(image) + f(mirrored image), L2-normalised",
    "embedding_no_flip": "f(image), L2-normalised",
    "distance": "squared Euclidean",
    "thresholds": "0, 0.01 ... 3.99; same if distance < threshold",
    "folds": "10, unshuffled; per fold the first threshold that is best on the other nine",
    "std": "over the ten folds, divided by their number (not by one less)",
    "embedding_norm": "mean over all images of all pairs, plain and mirrored",
    "tar_at_far": "largest threshold at which at most that rate of negative pairs is accepted",
}


@dataclass(frozen=True)
class LoadedModel:
    """A network, and what the report says about it."""

    embed: Model
    image_size: int
    file: Path
    metadata: dict[str, Any]


parser = make_parser(__doc__)
add = parser.add_argument
add(
    "--model",
    type=Path,
    required=True,
    help="run folder, checkpoint folder, weight file or .onnx file",
)
add("--sets", nargs="+", required=True, help=".bin files, or names of sets in --folder")
add("--folder", type=Path, help="folder of the sets that are given by name")
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
add("--mean", type=float, default=MID_GREY, help="value to subtract from the pixels, 0 to 255")
add("--std", type=float, default=MID_GREY, help="value to divide them by, after that")
add(
    "--channels", choices=["rgb", "bgr"], default="rgb", help="channel order that the model expects"
)
add("--batch-size", type=int, default=64, help="images per batch")
add("--device", choices=["auto", "cpu", "cuda"], default="auto", help="device to run on")
add("--output", type=Path, default=Path("results.json"), help="new file for all figures")


def load_model(options: argparse.Namespace, device: torch.device) -> LoadedModel:
    """Return the network that `--model` names; raises `ValueError` if there is none."""
    path: Path = options.model
    if not path.exists():
        raise ValueError(f"--model {path} does not exist: expected a folder, weights or .onnx file")
    # A file stands for itself, and is refused where other weights than its own are asked for.
    file = backbone_file(path, options.checkpoint, options.weights)
    if path.suffix == ".onnx":
        onnx = OnnxModel(path, device)
        size = _image_size(options.image_size, onnx.image_size, path)
        return LoadedModel(onnx, size, path, {"kind": "onnx", "provider": onnx.provider})
    metadata: dict[str, Any] = {"kind": "weights"}
    trained_size = None
    if path.is_dir():
        saved = read_metadata(file.parent)
        metadata = {"kind": "checkpoint", "step": saved["step"], "weights": options.weights}
        trained_size = int(saved["config"]["data"]["image_size"])
        path = file
    size = _image_size(options.image_size, trained_size, path)
    weights = read_weights(path)
    name, backbone = build_for_weights(weights, str(path), image_size=size)
    backbone.eval().to(device).to(memory_format=torch.channels_last)
    return LoadedModel(backbone, size, path, {**metadata, "backbone": name})


def _image_size(option: int | None, stated: int | None, path: Path) -> int:
    if option is not None and stated is not None and option != stated:
        raise ValueError(f"--image-size is {option}, {path} expects {stated}: omit the option")
    return option or stated or 112


def adapted(model: Model, options: argparse.Namespace, advance: Callable[[int], object]) -> Model:
    """Return the model for RGB images in [-1, 1]; `advance` gets the size of each batch."""
    if options.std <= 0:
        raise ValueError(f"--std is {options.std}: expected a positive number")
    rescale = (options.mean, options.std) != (MID_GREY, MID_GREY)

    def embed(images: Tensor) -> Tensor:
        advance(len(images))
        if rescale:
            images = (images * MID_GREY + MID_GREY - options.mean) / options.std
        return model(images.flip(1) if options.channels == "bgr" else images)

    return embed


def table(results: Sequence[VerificationResult]) -> str:
    """Return the main figures as aligned columns, then all warnings."""
    head = ["set", "pairs", "accuracy", "no flip", "cosine >", "distance <"]
    rows = [[*head, *(f"TAR@{name}" for name in RATES), "norm"]]
    for one in results:
        rows.append(
            [
                one.name,
                f"{one.pairs:,}",
                f"{one.accuracy:.4f} ± {one.accuracy_std:.4f}",
                f"{one.accuracy_no_flip:.4f} ± {one.accuracy_no_flip_std:.4f}",
                f"{one.threshold_cosine:.4f}",
                f"{one.threshold_distance:.3f}",
                *("–" if rate is None else f"{rate:.4f}" for rate in one.tar_at_far.values()),
                f"{one.embedding_norm:.4f}",
            ]
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
             for row in rows]  # fmt: skip
    lines += [f"warning: {one.name}: {warning}" for one in results for warning in one.warnings]
    return "\n".join(lines)


def report(
    options: argparse.Namespace,
    model: LoadedModel,
    verifier: Verifier,
    results: Sequence[VerificationResult],
) -> dict[str, Any]:
    """Return everything that a reader needs to trust or reproduce the figures."""
    known = {**versions(), "numpy": np.__version__}
    if isinstance(model.embed, OnnxModel):
        known["onnxruntime"] = model.embed.version
    return {
        "model": {
            "path": str(model.file),
            "sha256": sha256(model.file),
            **model.metadata,
            "image_size": model.image_size,
            "mean": options.mean,
            "std": options.std,
            "channels": options.channels,
        },
        "protocol": PROTOCOL,
        "versions": known,
        "sets": [
            {
                **result.to_json(),
                "path": str(item.pairs.path),
                "sha256": sha256(item.pairs.path),
                "images": len(item.pairs),
                "unique_images": len(item.unique),
            }
            for item, result in zip(verifier.sets, results, strict=True)
        ],
    }


def check_output(path: Path) -> None:
    """Raise `ValueError` before the work for a file that cannot be written, or exists already."""
    if path.exists():
        raise ValueError(
            f"--output {path} exists already: delete it, or write to another file with --output"
        )
    if not path.parent.is_dir():
        raise ValueError(f"--output {path}: folder {path.parent} does not exist: create it first")


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@command(parser)
def main(options: argparse.Namespace) -> None:
    """Verify, print and write."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    check_output(options.output)
    device, _ = choose_device(options.device, World())
    # The figures must not depend on the kind of GPU: no TF32 in convolutions.
    torch.backends.cudnn.allow_tf32 = False
    model = load_model(options, device)
    verifier = Verifier(
        options.sets,
        folder=options.folder,
        image_size=model.image_size,
        batch_size=options.batch_size,
    )
    total = 2 * sum(len(item.unique) for item in verifier.sets)
    started = time.perf_counter()
    with tqdm(total=total, unit="image", disable=None, leave=False) as bar:
        results = verifier(adapted(model.embed, options, bar.update), device)
    seconds = time.perf_counter() - started
    record = {**report(options, model, verifier, results), "seconds": round(seconds, 3)}
    print(table(results))
    options.output.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    print(f"{total:,} images in {seconds:.1f} s on {device}; all figures: {options.output}")


if __name__ == "__main__":
    exit_with(main)
