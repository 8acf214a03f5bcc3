"""Images to pack and to check: faces of the demo, each made another one by a comment of its own.

A program of its own: it imports torch, which the packer's worker processes would then have to do
too, and which makes forking slow for the loops beside the tools.
"""

import random
import shutil
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

from data.datasets.dataset import open_dataset
from data.demo.generate import make_demo_data
from data.progress import progress_bar
from data.records.writer import write_face_records

PER_PERSON = 20
_IDENTITIES, _FACES = 200, 2000  # that are painted
_COMMENT = (800, 1200)  # bytes, of random content: what follows stands elsewhere in each image


def demo_faces(folder: Path) -> list[bytes]:
    """Return the JPEGs of synthetic people, which are made in `folder` the first time."""
    with progress_bar(str(folder), "image") as progress:
        make_demo_data(
            folder, identities=_IDENTITIES, images=_FACES, people_per_set=20, progress=progress
        )
    dataset = open_dataset(folder)
    return [bytes(dataset.encoded(number)) for number in range(len(dataset))]


def unique_images(faces: list[bytes], count: int) -> Iterator[tuple[int, bytes]]:
    """Yield (person, JPEG) `count` times; no two JPEGs are the same, nor alike in their bytes."""
    for number in range(count):
        rng = random.Random(number)
        comment = rng.randbytes(rng.randint(*_COMMENT))
        face = faces[number % len(faces)]
        segment = b"\xff\xfe" + struct.pack(">H", len(comment) + 2) + comment
        yield number // PER_PERSON, face[:2] + segment + face[2:]


def make_people(folder: Path, faces: list[bytes], count: int) -> None:
    """Write `count` files, a folder a person, into `folder` unless it is there."""
    partial = folder.with_name(folder.name + ".partial")
    if folder.exists():
        return
    shutil.rmtree(partial, ignore_errors=True)
    for number, (person, image) in enumerate(unique_images(faces, count)):
        path = partial / f"{person:06d}" / f"{number % PER_PERSON:02d}.jpg"
        if number % PER_PERSON == 0:
            path.parent.mkdir(parents=True)
        path.write_bytes(image)
    partial.replace(folder)


def make_records(folder: Path, faces: list[bytes], count: int) -> None:
    """Write records of `count` images into `folder` unless they are there."""
    if not (folder / "property").is_file():  # which is written last
        write_face_records(folder, unique_images(faces, count))


def make_all(folder: Path, images: int, large: int) -> None:
    """Make in `folder` what the cases need and is not there; `large` may be 0."""
    faces = demo_faces(folder / "demo")
    make_people(folder / f"people_{images}", faces, images)
    for count in (images, large):
        if count:
            make_records(folder / f"records_{count}", faces, count)


if __name__ == "__main__":
    make_all(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
