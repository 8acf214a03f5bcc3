"""Embed all faces of a folder or a dataset into one .npz file.

The faces are aligned: a folder of images at any depth, or a dataset as in data.train. The file has
`embeddings` (float32 [n, d], of length 1), `names` (paths, or numbers of records), `labels` (the
folder of each image, or the name or label of its class) and `about` (JSON: model, location and so
on). Run the same command again after an interruption: it goes on.

    python scripts/embed_faces.py faces/ gallery.npz --model exported/
    python scripts/embed_faces.py datasets/demo demo.npz --model runs/demo
"""

import argparse
from pathlib import Path

from tqdm import tqdm

from scripts.common.command import command, exit_with, make_parser
from scripts.faces.gallery import open_faces, write_gallery
from scripts.faces.options import add_network, open_embedder

parser = make_parser(__doc__)
parser.add_argument("faces", help="folder of images, or a dataset")
parser.add_argument("output", type=Path, help="the new .npz file")
add_network(parser)


@command(parser)
def main(options: argparse.Namespace) -> None:
    """Write the file."""
    path: Path = options.output
    if path.suffix != ".npz":
        raise ValueError(f"{path}: expected a name that ends in .npz")
    if path.exists():
        raise ValueError(f"{path} exists already: delete it, or write to another file")
    embedder, faces = open_embedder(options), open_faces(options.faces)
    with tqdm(total=len(faces.names), unit="face", disable=None, leave=False) as bar:
        earlier = write_gallery(
            embedder, faces, options.faces, path, lambda count: bar.update(count)
        )
    note = f", {earlier:,} of them by an earlier try" if earlier else ""
    print(f"{path}: {len(faces.names):,} faces{note}")


if __name__ == "__main__":
    exit_with(main, "interrupted: run the same command again to go on")
