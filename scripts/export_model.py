"""Write a trained network in the forms that other tools read, with a model card.

The network is a run folder, a checkpoint folder or a file of weights. The output is a new folder
with model.onnx (any batch size; also a recognition model for the package insightface), model.pt2
(torch.export), model.safetensors, config.json and README.md, the card. Each file is compared with
the network, and refused if embeddings differ by more than 1e-4 of their length.

    python scripts/export_model.py runs/demo exported/ --sets datasets/demo/lfw.bin
    python scripts/export_model.py runs/demo exported/ --results results.json
    python scripts/export_model.py runs/demo exported/ --fp16 --int8 --calibrate datasets/demo \
--sets datasets/demo/lfw.bin

Thresholds come from the sets, or from a results.json of benchmark_verification for this network.
"""

import argparse
import json
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from data.augmentations.augment import normalise
from data.datasets.dataset import open_dataset
from data.files import atomic_folder, writing
from data.loading.decode import decode_batch
from recognition import __version__
from recognition.checkpoint import read_metadata
from recognition.inference import Network, load_network
from recognition.inference.card import Card
from recognition.inference.description import CONFIG, Description, ExportedFile, sha256
from recognition.inference.export import ONNX, difference, export_backbone
from recognition.inference.measured import Measurements, measurements
from recognition.inference.onnx_model import OnnxModel
from recognition.inference.quantise import to_fp16, to_int8
from scripts import benchmark_verification
from scripts.common.command import command, exit_with, make_parser

FP16, INT8 = "model_fp16.onnx", "model_int8.onnx"

parser = make_parser(__doc__)
add = parser.add_argument
add("model", type=Path, help="run or checkpoint folder, or a file of weights")
add("output", type=Path, help="an empty or new folder")
add("--name", help="what the card calls the network (default: the name of the model's folder)")
add("--checkpoint", choices=["latest", "best"], default="latest", help="which one of a run folder")
add("--weights", choices=["raw", "ema"], default="raw", help="which weights of a checkpoint")
add("--image-size", type=int, help="pixels per side, of a file of weights (default: 112)")
add("--fp16", action="store_true", help=f"write {FP16} too, float16 inside")
add("--int8", action="store_true", help=f"write {INT8} too, with products of 8-bit integers")
add("--calibrate", help="dataset whose images set the ranges of --int8")
add("--calibrate-images", type=int, default=512, help="how many, spread over the dataset")
figures = parser.add_mutually_exclusive_group()
figures.add_argument("--sets", type=Path, nargs="+", help=".bin files to measure every file on")
figures.add_argument("--results", type=Path, help="results.json of this very network")
add("--batch-size", type=int, default=64, help="images per batch")


@command(parser)
def main(options: argparse.Namespace) -> None:
    """Write the folder."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if options.int8 and options.calibrate is None:
        raise ValueError("--int8 needs images to choose ranges by: name a dataset in --calibrate")
    for name in ("calibrate_images", "batch_size"):
        if (count := getattr(options, name)) < 1:
            raise ValueError(f"--{name.replace('_', '-')} is {count}, expected at least 1")
    network = load_network(
        options.model,
        torch.device("cpu"),
        image_size=options.image_size,
        which=options.checkpoint,
        weights=options.weights,
    )
    backbone = network.module
    if backbone is None:
        raise ValueError(f"{options.model} is {network.kind}: expected a run, or weights")
    results = None
    if options.results is not None:
        try:
            found = json.loads(options.results.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(
                f"{options.results} is no file of scripts/benchmark_verification.py: {error}"
            ) from None
        results = measurements(found, sha256=sha256(network.file))
    with atomic_folder(options.output) as folder:
        differences = write_networks(options, network, backbone, folder)
        measured = {ONNX: results} if results is not None else measure(options, folder)
        card = describe(options, network, folder, differences, measured)
        with writing(options.output):
            (folder / CONFIG).write_text(card.description.to_json(), encoding="utf-8")
            (folder / "README.md").write_text(card.text(), encoding="utf-8")
    for name, value in differences.items():
        print(f"{options.output / name}: embeddings differ by at most {value:.2g} of their length")
    print(f"{options.output / 'README.md'}: the model card; fill in what is marked there")


def write_networks(
    options: argparse.Namespace, network: Network, backbone: nn.Module, folder: Path
) -> dict[str, float]:
    """Write the files of all forms; return their relative differences from the network."""
    size = network.image_size
    facts = {"backbone": str(network.details["backbone"]), "producer": f"partialfc {__version__}"}
    with writing(options.output):
        differences = export_backbone(backbone, folder, image_size=size, metadata=facts)
        if options.fp16:
            to_fp16(folder / ONNX, folder / FP16)
        if options.int8:
            to_int8(folder / ONNX, folder / INT8, calibration(options, size))
    for name in (FP16, INT8):
        if (folder / name).exists():
            model = OnnxModel(folder / name, torch.device("cpu"))
            differences[name] = difference(backbone, model, size)
    return differences


def calibration(options: argparse.Namespace, size: int) -> Iterator[NDArray[np.float32]]:
    """Yield batches of images that are spread over the dataset of --calibrate."""
    dataset = open_dataset(options.calibrate)
    count = min(options.calibrate_images, len(dataset))
    indices = np.linspace(0, len(dataset) - 1, count).astype(np.int64)
    for start in range(0, count, options.batch_size):
        pixels = decode_batch(dataset, indices[start : start + options.batch_size], size)
        yield normalise(torch.from_numpy(pixels).permute(0, 3, 1, 2)).contiguous().numpy()


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Measurements]:
    """Return the figures of every ONNX file on --sets; empty without any."""
    if options.sets is None:
        return {}
    files = [folder / name for name in (ONNX, FP16, INT8) if (folder / name).exists()]
    with tempfile.TemporaryDirectory() as scratch:
        output = Path(scratch) / "results.json"
        arguments = ["--model", files[0], "--sets", *options.sets, "--output", output]
        if len(files) > 1:
            arguments += ["--compare", *files[1:]]
        arguments += ["--batch-size", options.batch_size, "--no-faces", "--no-cache"]
        if benchmark_verification.main([str(one) for one in arguments]):
            raise ValueError("the files could not be measured: see the message above")
        results = json.loads(output.read_text(encoding="utf-8"))
    return {file.name: measurements(results, name=file.stem) for file in files}


def describe(
    options: argparse.Namespace,
    network: Network,
    folder: Path,
    differences: dict[str, float],
    measured: dict[str, Measurements],
) -> Card:
    """Return the model card, which holds what `config.json` says."""
    files = {}
    for file in sorted(folder.iterdir()):
        # The forms without rounding of their own share the thresholds of the ONNX file.
        own = measured.get(file.name if file.name in (FP16, INT8) else ONNX)
        files[file.name] = ExportedFile(sha256(file), () if own is None else own.thresholds)
    size = network.image_size
    with torch.inference_mode():
        embedding_size = network.embed(torch.zeros(1, 3, size, size)).shape[1]
    description = Description(
        backbone=str(network.details["backbone"]),
        embedding_size=embedding_size,
        image_size=size,
        flip=any(one.flip for one in measured.values()),
        files=files,
    )
    facts: dict[str, Any] = {}
    config = None
    if network.kind == "checkpoint":
        saved = read_metadata(network.file.parent)
        config, facts = saved["config"], {"steps": f"{saved['step']:,}"}
        for name in ("classes", "images"):
            if count := saved.get("identity", {}).get(name):
                facts[name] = f"{count:,}"
        facts["weights"] = options.weights
    name = options.name or options.model.resolve().name
    return Card(name, description, differences, measured, config, facts)


if __name__ == "__main__":
    exit_with(main)
