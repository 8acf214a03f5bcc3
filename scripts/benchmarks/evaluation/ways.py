"""What is timed: a bare loop over the network, verification in training, and the whole command."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from backbones import build_backbone
from data.augmentations.augment import normalise
from data.loading.decode import decode_batch
from data.pairs.bin_file import PairFile, read_pair_file
from eval.results import Run
from eval.suites.images import Embedder
from eval.suites.models import LoadedModel, load_models
from eval.suites.run import open_suite, run_suite
from eval.suites.settings import PairSet, Suite
from eval.verifier import Verifier
from recognition.distributed import World
from recognition.precision import Precision

BARE: Final = "bare loop"
TRAINING: Final = "in training"
COMMAND: Final = "the command"
SIZE: Final = 112
RUN: Final = Run("", "", "", 1, {}, None, 0, 0, {})

Seconds = dict[str, float]


@dataclass(frozen=True)
class Workload:
    """A set, and its images as batches that are already decoded."""

    file: Path
    batch_size: int
    batches: list[Tensor]  # uint8 [b, S, S, 3] in memory, pinned for CUDA

    @property
    def images(self) -> int:
        """The number of images."""
        return sum(map(len, self.batches))


def load(file: Path, batch_size: int, device: torch.device) -> Workload:
    """Return a set with its decoded batches; 12,000 images take 450 MB."""
    pairs: PairFile = read_pair_file(file)
    indices: NDArray[np.int64] = np.arange(len(pairs), dtype=np.int64)
    chunks = [indices[i : i + batch_size] for i in range(0, len(pairs), batch_size)]
    batches = [torch.from_numpy(decode_batch(pairs, chunk, SIZE)) for chunk in chunks]
    if device.type == "cuda":
        batches = [batch.pin_memory() for batch in batches]
    return Workload(file, batch_size, batches)


class Network:
    """A network with random weights in a file, as the command reads it, in one precision."""

    def __init__(self, backbone: str, precision: str, folder: Path, device: torch.device) -> None:
        self.backbone = backbone
        self.precision = Precision(precision, device)
        self.device = device
        file = folder / f"{backbone}.pt"
        if not file.exists():
            torch.manual_seed(0)
            network = build_backbone(backbone, embedding_size=512, image_size=SIZE)
            torch.save(network.state_dict(), file)
        (model,) = load_models([file], device, image_size=SIZE)
        self.model: LoadedModel = replace(model, embed=self._in_precision(model.embed))

    def _in_precision(self, embed: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        def call(images: Tensor) -> Tensor:
            with self.precision.autocast():
                embeddings = embed(images)
            return embeddings.float()

        return call

    @property
    def ways(self) -> list[str]:
        """What can be timed: the command knows fp32 alone."""
        return [BARE, TRAINING, *([COMMAND] if self.precision.name == "fp32" else [])]


class Timer:
    """Times one network on one set, each way by itself."""

    def __init__(self, network: Network, workload: Workload, replicates: int) -> None:
        self.network, self.workload = network, workload
        self._suite = Suite(pairs={"pairs": PairSet(file=workload.file)}, replicates=replicates)
        self._verifier = Verifier([self._suite], image_size=SIZE, batch_size=workload.batch_size)
        self._calls = {BARE: self._bare, TRAINING: self._training, COMMAND: self._command}

    def warm_up(self) -> None:
        """Run batches of both sizes that there are, so that no way pays for being the first."""
        self.network.precision.set_switches(deterministic=False)
        for batch in {len(one): one for one in self.workload.batches}.values():
            for _ in range(3):
                self._embed(batch)
        self._synchronise()

    def measure(self, number: int) -> dict[str, Seconds]:
        """Return the seconds of each way, in parts; who is first changes with the round."""
        self.network.precision.set_switches(deterministic=False)
        ways, found = self.network.ways, {}
        for way in (ways[(number + i) % len(ways)] for i in range(len(ways))):
            self._synchronise()
            started, computed = time.perf_counter(), time.process_time()
            parts = self._calls[way]()
            seconds = {"all": time.perf_counter() - started, "cpu": time.process_time() - computed}
            found[way] = {**seconds, **parts}
        return found

    def _synchronise(self) -> None:
        if self.network.device.type == "cuda":
            torch.cuda.synchronize()

    def _embed(self, batch: Tensor) -> Tensor:
        pixels = batch.to(self.network.device, non_blocking=True)
        images = normalise(pixels.permute(0, 3, 1, 2))
        embed = self.network.model.embed
        return torch.stack([embed(images), embed(images.flip(3))], dim=1)

    def _bare(self) -> Seconds:
        with torch.inference_mode():
            torch.cat([self._embed(batch) for batch in self.workload.batches]).cpu()
        return {}

    def _training(self) -> Seconds:
        with torch.inference_mode():
            self._verifier(self.network.model.embed, self.network.device)
        return {}

    def _command(self) -> Seconds:
        started = time.perf_counter()
        sets = open_suite(self._suite)
        opening = time.perf_counter() - started
        embed = Embedder(self.network.device, World(), None, self.workload.batch_size)
        results = run_suite(self._suite, sets, [self.network.model], embed, RUN)
        assert results is not None, "this is rank 0"
        return {"opening": opening, **results.models[0].cost.seconds}
