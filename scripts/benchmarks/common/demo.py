"""Images for a benchmark that is given none."""

from pathlib import Path

from data.datasets.dataset import ImageDataset, open_dataset
from data.demo.generate import make_demo_data
from data.progress import progress_bar


def demo_dataset(folder: Path) -> ImageDataset:
    """Return 2,000 images of 200 synthetic people, which are generated the first time."""
    with progress_bar(str(folder), "image") as progress:
        make_demo_data(folder, identities=200, images=2000, people_per_set=20, progress=progress)
    return open_dataset(folder)
