"""Find the faces of a gallery that are most like a face.

The gallery is a file of embed_faces, made by the same network. Prints rank, cosine, label and name,
and draws the faces with --sheet.

    python scripts/search_faces.py query.jpg gallery.npz --model exported/ --top 5 --sheet found.png
"""

import argparse
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from data.contact_sheet import SIDE, contact_sheet
from data.loading.decode import decode_batch
from recognition import FaceEmbedder
from recognition.inference.embedder import prepare
from recognition.redaction import printable
from scripts.common.command import command, exit_with, make_parser
from scripts.faces.gallery import Gallery, open_faces, unit_embeddings
from scripts.faces.options import add_network, open_embedder

SAME_IMAGE: Final = 0.999  # cosine of two embeddings of an image, on any device

parser = make_parser(__doc__)
parser.add_argument("query", type=Path, help="an image of one aligned face")
parser.add_argument("gallery", type=Path, help="a file of embed_faces")
parser.add_argument("--top", type=int, default=5, help="how many faces")
parser.add_argument("--sheet", type=Path, help="PNG of the query and the faces")
add_network(parser)


@command(parser)
def main(options: argparse.Namespace) -> None:
    """Print the nearest faces."""
    if options.top < 1:
        raise ValueError(f"--top is {options.top}: expected at least 1")
    if options.sheet is not None and options.sheet.suffix.lower() != ".png":
        raise ValueError(f"--sheet {options.sheet}: expected a name that ends in .png")
    gallery = Gallery.read(options.gallery)
    if options.flip is None:
        options.flip = bool(gallery.about.get("flip"))
    embedder = open_embedder(options)
    gallery.check(options.gallery, embedder)
    cosines, rows = nearest(gallery.embeddings, embedder.embed(options.query), options.top)
    for rank, (cosine, row) in enumerate(zip(cosines, rows, strict=True), start=1):
        found = f"{gallery.labels[row]}  {gallery.names[row]}"
        print(f"{rank:3d}  {cosine:.4f}  {printable(found)}")
    if options.sheet is not None:
        draw(options, embedder, gallery, cosines, rows)
        print(f"{options.sheet}: the query, and these faces")


def nearest(
    embeddings: NDArray[np.float32], query: NDArray[np.float32], top: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return the highest cosines and their rows, at most `top`, the highest first."""
    try:
        import faiss
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "the search needs faiss, which is not installed: pip install -e '.[search]'"
        ) from None
    cosines, rows = faiss.knn(
        query, embeddings, min(top, len(embeddings)), metric=faiss.METRIC_INNER_PRODUCT
    )
    return cosines[0], rows[0]


def draw(
    options: argparse.Namespace,
    embedder: FaceEmbedder,
    gallery: Gallery,
    cosines: NDArray[np.float32],
    rows: NDArray[np.int64],
) -> None:
    """Write the contact sheet, with the faces from where the gallery was made."""
    location = gallery.about["location"]
    faces = open_faces(location)
    same = [faces.names[row] if row < len(faces.names) else "" for row in rows] == [
        gallery.names[row] for row in rows
    ]
    if same:
        again = unit_embeddings(embedder, faces.source, rows)
        same = bool(((again * gallery.embeddings[rows]).sum(axis=1) > SAME_IMAGE).all())
    if not same:
        raise ValueError(f"{location} has changed since the gallery was made: embed it anew")
    found = list(decode_batch(faces.source, rows, SIDE))
    captions = [[options.query.name, "query"]] + [
        [str(gallery.names[row]), f"{rank}: {cosine:.4f}"]
        for rank, (cosine, row) in enumerate(zip(cosines, rows, strict=True), start=1)
    ]
    shown = [prepare(options.query, SIDE), *found]
    contact_sheet(shown, captions, columns=6).save(options.sheet)


if __name__ == "__main__":
    exit_with(main)
