"""A verification set of any size for a benchmark, generated."""

from pathlib import Path

from data.pairs.bin_file import write_pair_file
from scripts.benchmarks.common.demo import demo_dataset
from scripts.benchmarks.tools.images import unique_images


def made_pairs(folder: Path, images: int) -> Path:
    """Return a file of `images` different JPEGs in pairs, which is written the first time.

    Every other pair is called genuine: what the figures are makes no difference to their cost.
    Raises `ValueError` for an odd number, or fewer than 20.
    """
    if images < 20 or images % 2:
        raise ValueError(f"--images is {images}: expected an even number of at least 20")
    path = folder / f"pairs_{images}.bin"
    if not path.exists():
        demo = demo_dataset(folder / "demo")
        faces = [bytes(demo.encoded(index)) for index in range(len(demo))]
        made = [image for _, image in unique_images(faces, images)]
        write_pair_file(path, made, [pair % 2 == 0 for pair in range(images // 2)])
    return path
