"""The ways to load that are compared, each as an endless stream of batches of the same samples."""

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
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
from scripts.benchmarks.loader.incumbent import Reader, incumbent_loader

BARE, OURS, DALI, INCUMBENT = "bare decode", "ours", "ours, DALI", "incumbent"
ENDLESS = 1 << 40  # steps


@dataclass(frozen=True)
class RateSample:
    """What arrived of one way in one round."""

    images: int
    seconds: float
    cpu_seconds: float  # of this process in that time, over all its threads

    @property
    def rate(self) -> float:
        """Images per second."""
        return self.images / self.seconds


@dataclass(frozen=True)
class Way:
    """One way to load."""

    name: str  # `BARE`, `OURS`, `DALI` or `INCUMBENT`
    workers: int  # threads of ours, processes of the incumbent; 0: the incumbent's main process
    open: Callable[[], Generator[int]]  # starts anew; yields the number of images in each batch
    ahead: int  # batches that it may prefetch: after as many its rate is even

    @property
    def one_process(self) -> bool:
        """Whether all of its work is done in this process."""
        return self.name != INCUMBENT or self.workers == 0

    def measure(self, seconds: float) -> RateSample:
        """Start, let the rate become even, and count the images for `seconds`.

        As many batches were prefetched when the clock starts as are left over when it stops.
        Raises `ValueError` if `seconds` is not positive.
        """
        if seconds <= 0:
            raise ValueError(f"seconds: {seconds} found, expected more than 0")
        with closing(self.open()) as stream:
            for _ in range(self.ahead + 2):
                next(stream)
            images = 0
            started, cpu = time.perf_counter(), time.process_time()
            elapsed = 0.0
            while elapsed < seconds:
                images += next(stream)
                elapsed = time.perf_counter() - started
            return RateSample(images, elapsed, time.process_time() - cpu)


@dataclass(frozen=True)
class Workload:
    """What all ways read: images of side `image_size` in batches, in the order of `seed`."""

    dataset: ImageDataset
    image_size: int
    batch_size: int
    seed: int
    prefetch: int = 4

    @property
    def records(self) -> RecordImages:
        """The only source of the images: a `.rec` file, which all ways can read."""
        (records,) = self.dataset.sources
        assert isinstance(records, RecordImages)
        return records

    def loader(self, workers: int = 1, decoder: MakeDecoder = CpuDecoder) -> Loader:
        """Return our loader."""
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
        """Yield indices of images in the dataset, endlessly."""
        loader = self.loader()
        for step in count():
            yield from loader.spec(step, 0).indices.tolist()


def all_ways(workload: Workload, reader: Reader) -> list[Way]:
    """Return the ways, the limit first."""
    of_ours = [
        ours(workload, workers, name, decoder)
        for name, decoder in decoders().items()
        for workers in (1, 2)
    ]
    incumbent = [
        # Twice its workers is how many batches DataLoader prefetches by default.
        Way(INCUMBENT, workers, partial(_incumbent, workload, reader, workers), 2 * workers)
        for workers in (0, 2)
    ]
    return [Way(BARE, 1, bare_decode(workload), 0), *of_ours, *incumbent]


def ours(
    workload: Workload, workers: int, name: str = OURS, decoder: MakeDecoder = CpuDecoder
) -> Way:
    """Return our loader with so many threads."""
    return Way(name, workers, partial(_ours, workload, workers, decoder), workload.prefetch)


def decoders() -> dict[str, MakeDecoder]:
    """Return our loader's decoders; DALI only where it is installed, on a GPU if there is one."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return {OURS: CpuDecoder, DALI: choose_decoder("dali", device)}
    except ValueError:
        return {OURS: CpuDecoder}


def bare_decode(workload: Workload) -> Callable[[], Generator[int]]:
    """Return the limit: libjpeg-turbo over JPEGs in memory, into one buffer that stays in cache.

    Raises `ValueError` if an image is not a JPEG.
    """
    dataset = workload.dataset
    encoded = [bytes(dataset.encoded(index)) for index in range(len(dataset))]
    for index, image in enumerate(encoded):
        if not simplejpeg.is_jpeg(image):
            raise ValueError(
                f"{dataset.describe(index)}: found an image that is not a JPEG; the limit is the "
                "rate of a JPEG decoder, so --data must be records of JPEGs only"
            )
    sizes = {encoded_size(image) for image in encoded}
    buffer = np.empty(max(3 * width * height for width, height in sizes), np.uint8)

    # Nothing but decoding may be in the loop, so the first epoch's order is repeated.
    shuffled = [encoded[index] for index in islice(workload.indices(), len(encoded))]
    stream = cycle(shuffled)

    def run() -> Generator[int]:
        decode = simplejpeg.decode_jpeg
        while True:
            for image in islice(stream, workload.batch_size):
                decode(image, "RGB", buffer=buffer)
            yield workload.batch_size

    return run


def _ours(workload: Workload, workers: int, decoder: MakeDecoder) -> Generator[int]:
    for batch in workload.loader(workers, decoder).batches(0, ENDLESS):
        yield len(batch)


def _incumbent(workload: Workload, reader: Reader, workers: int) -> Generator[int]:
    keys = workload.records.keys
    stream = (int(keys[index]) for index in workload.indices())
    path, size = Path(workload.records.location), workload.batch_size
    loader = incumbent_loader(path, stream, reader=reader, batch_size=size, workers=workers)
    for images, _ in loader:
        yield len(images)
