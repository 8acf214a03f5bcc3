"""Say how alike two aligned faces are, and whether they are one person's.

The verdict is by the model's threshold for a rate of false accepts, from the config.json that
export_model wrote next to it; without such a threshold there is none, and the exit status is 1.

    python scripts/compare_faces.py a.jpg b.jpg --model exported/ --far 1e-4
"""

import argparse
import math
from pathlib import Path

from recognition.inference import Network
from recognition.inference.description import Threshold
from scripts.common.command import command, exit_with, make_parser
from scripts.faces.options import add_network, open_embedder

parser = make_parser(__doc__)
parser.add_argument("first", type=Path, help="an image of one aligned face")
parser.add_argument("second", type=Path, help="another")
parser.add_argument("--far", type=float, default=1e-4, help="false accept rate of the verdict")
add_network(parser)


@command(parser, failed=2)
def main(options: argparse.Namespace) -> int:
    """Print cosine and verdict; return 0 if there is a verdict, 1 if there is none."""
    embedder = open_embedder(options)
    first, second = embedder.embed([options.first, options.second])
    cosine = float(first @ second)
    print(f"cosine {cosine:.4f}")
    try:
        threshold = choose(embedder.network, options.far, flip=embedder.flip)
    except ValueError as error:
        print(f"no verdict: {error}")
        return 1
    assert threshold.cosine is not None, "chosen for having one"
    verdict = "the same person" if cosine > threshold.cosine else "different people"
    print(
        f"{verdict}, at one false accept in {1 / threshold.far:,.0f} (cosine above "
        f"{threshold.cosine:.4f}, measured on {threshold.set} with "
        f"{threshold.impostor_pairs or 0:,} impostor pairs)"
    )
    return 0


def choose(network: Network, far: float, *, flip: bool) -> Threshold:
    """Return the threshold of a rate; raises `ValueError` if the network states none."""
    if not network.thresholds:
        raise ValueError(f"{network.file} states no thresholds: export it with --sets or --results")
    found = next((one for one in network.thresholds if math.isclose(one.far, far)), None)
    if found is None:
        known = ", ".join(f"{one.far:g}" for one in network.thresholds)
        raise ValueError(f"no threshold for FAR {far:g}; the model states those for {known}")
    if found.cosine is None:
        raise ValueError(f"no threshold for FAR {far:g}: {found.reason}")
    if flip != network.flip:
        with_, without = ("--flip", "--no-flip")[:: 1 if network.flip else -1]
        raise ValueError(f"the thresholds are for {with_}, these embeddings are {without}")
    return found


if __name__ == "__main__":
    exit_with(main)
