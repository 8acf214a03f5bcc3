"""Images to pack and to check: the demo's faces, each made unique by a comment in its JPEG.

A separate program: it imports torch, which the packer's worker processes would then have to import
too, and which slows down forking for the bare loops.
"""

import random
import shutil
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

from data.records.writer import write_face_records
from scripts.benchmarks.common.demo import demo_dataset

PER_PERSON = 20
_COMMENT = (800, 1200)  # bytes, of random content: what follows has another offset in each image


def unique_images(faces: list[bytes], count: int) -> Iterator[tuple[int, bytes]]:
    """Yield (person, JPEG) `count` times; all JPEGs differ, and most of their bytes do."""
    for number in range(count):
        rng = random.Random(number)
        comment = rng.randbytes(rng.randint(*_COMMENT))
        face = faces[number % len(faces)]
        segment = b"\xff\xfe" + struct.pack(">H", len(comment) + 2) + comment
        yield number // PER_PERSON, face[:2] + segment + face[2:]


def make_people(folder: Path, faces: list[bytes], count: int) -> None:
    """Write `count` files, one folder per person, into `folder` unless it exists."""
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
    """Write records of `count` images into `folder` unless they exist."""
    if not (folder / "property").is_file():  # which is written last
        write_face_records(folder, unique_images(faces, count))


def make_all(folder: Path, images: int, large: int) -> None:
    """Generate in `folder` what the cases need, unless it exists; `large` may be 0."""
    demo = demo_dataset(folder / "demo")
    faces = [bytes(demo.encoded(index)) for index in range(len(demo))]
    make_people(folder / f"people_{images}", faces, images)
    for count in (images, large):
        if count:
            make_records(folder / f"records_{count}", faces, count)


if __name__ == "__main__":
    make_all(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
