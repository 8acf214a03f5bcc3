"""The options that say which network embeds faces."""

import argparse
from pathlib import Path

from recognition import FaceEmbedder


def add_network(parser: argparse.ArgumentParser) -> None:
    """Add the options of `open_embedder`."""
    add = parser.add_argument
    add("--model", type=Path, required=True, help="run, checkpoint, export, or a network's file")
    add("--image-size", type=int, help="pixels per side, if the model does not state it")
    add("--device", choices=["auto", "cpu", "cuda"], default="auto", help="device to run on")
    add("--batch-size", type=int, default=64, help="faces per batch")
    add(
        "--flip",
        action=argparse.BooleanOptionalAction,
        help="add the embeddings of mirror images (default: as the model's thresholds were "
        "measured)",
    )


def open_embedder(options: argparse.Namespace) -> FaceEmbedder:
    """Return the network; raises `ValueError` if there is none."""
    return FaceEmbedder.load(
        options.model,
        device=options.device,
        batch_size=options.batch_size,
        flip=options.flip,
        image_size=options.image_size,
    )
