"""The ways to load that are compared, each as an endless stream of batches of the same samples."""

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import count, cycle, islice
from pathlib import Path

import numpy as np
import simplejpeg
import torch

from data.datasets.dataset import ImageDataset
from data.datasets.sources import RecordImages
from data.loading.choose_decoder import choose_decoder
from data.loading.cpu_decoder import CpuDecoder, MakeDecoder
from data.loading.decode import encoded_size
from data.loading.loader import Loader
from data.order.orders import GlobalOrder
from scripts.benchmarks.loader.incumbent import Reader, usual_loader

BARE, OURS, DALI, INCUMBENT = "bare decode", "ours", "ours, DALI", "incumbent"
ENDLESS = 1 << 40  # steps


@dataclass(frozen=True)
class Way:
    """One way to load.

    Attributes:
        name: `BARE`, `OURS`, `DALI` or `INCUMBENT`.
        workers: threads of ours, processes of the incumbent; 0: the incumbent's main process.
        open: starts anew, and yields how many images each batch has.
        ahead: batches that it may make early: so many pass before it runs evenly.
        one_process: whether all of its work is done in this process.
    """

    name: str
    workers: int
    open: Callable[[], Generator[int]]
    ahead: int
    one_process: bool


@dataclass(frozen=True)
class Setting:
    """What all ways read: images of side `image_size` in batches, in the order of `seed`."""

    dataset: ImageDataset
    image_size: int
    batch_size: int
    seed: int
    prefetch: int = 4

    @property
    def records(self) -> RecordImages:
        """The one source of the images: a `.rec` file, which all ways can read."""
        (records,) = self.dataset.sources
        assert isinstance(records, RecordImages)
        return records

    def loader(self, workers: int = 1, decoder: MakeDecoder = CpuDecoder) -> Loader:
        """Return ours."""
        return Loader(
            self.dataset,
            image_size=self.image_size,
            global_batch_size=self.batch_size,
            order=GlobalOrder(len(self.dataset), self.seed),
            workers=workers,
            prefetch=self.prefetch,
            decoder=decoder,
        )

    def indices(self) -> Iterator[int]:
        """Yield places of images in the dataset, for ever."""
        loader = self.loader()
        for step in count():
            yield from loader.spec(step, 0).indices.tolist()


def all_ways(setting: Setting, reader: Reader) -> list[Way]:
    """Return the ways, the limit first."""
    ours = [
        Way(name, workers, partial(_ours, setting, workers, by), setting.prefetch, one_process=True)
        for name, by in decoders().items()
        for workers in (1, 2)
    ]
    usual = [
        Way(
            INCUMBENT,
            workers,
            partial(_usual, setting, reader, workers),
            2 * workers,  # DataLoader's own default
            one_process=workers == 0,
        )
        for workers in (0, 2)
    ]
    return [Way(BARE, 1, bare_decode(setting), 0, one_process=True), *ours, *usual]


def decoders() -> dict[str, MakeDecoder]:
    """Return the decoders of ours, DALI's only where it is installed; on a GPU if there is one."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return {OURS: CpuDecoder, DALI: choose_decoder("dali", device)}
    except ValueError:
        return {OURS: CpuDecoder}


def bare_decode(setting: Setting) -> Callable[[], Generator[int]]:
    """Return the limit: libjpeg-turbo over JPEGs in memory, into one buffer that stays in cache.

    Raises `ValueError` if there is an image that is no JPEG.
    """
    dataset = setting.dataset
    encoded = [bytes(dataset.encoded(index)) for index in range(len(dataset))]
    for index, image in enumerate(encoded):
        if not simplejpeg.is_jpeg(image):
            raise ValueError(
                f"{dataset.describe(index)}: found an image that is no JPEG; the limit is the rate "
                "of a JPEG decoder: give records of JPEGs alone"
            )
    sizes = {encoded_size(image) for image in encoded}
    buffer = np.empty(max(3 * width * height for width, height in sizes), np.uint8)

    # Nothing but decoding is to be in the loop: the first epoch's order, again and again.
    shuffled = [encoded[index] for index in islice(setting.indices(), len(encoded))]
    stream = cycle(shuffled)

    def run() -> Generator[int]:
        decode = simplejpeg.decode_jpeg
        while True:
            for image in islice(stream, setting.batch_size):
                decode(image, "RGB", buffer=buffer)
            yield setting.batch_size

    return run


def _ours(setting: Setting, workers: int, decoder: MakeDecoder) -> Generator[int]:
    for batch in setting.loader(workers, decoder).batches(0, ENDLESS):
        yield len(batch)


def _usual(setting: Setting, reader: Reader, workers: int) -> Generator[int]:
    keys = setting.records.keys
    stream = (int(keys[index]) for index in setting.indices())
    loader = usual_loader(
        Path(setting.records.location),
        stream,
        reader=reader,
        batch_size=setting.batch_size,
        workers=workers,
    )
    for images, _ in loader:
        yield len(images)
