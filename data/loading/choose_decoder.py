"""The decoder that the config names, and how fast it is."""

from contextlib import closing
from functools import partial

import numpy as np
import torch

from data.datasets.dataset import FaceDataset
from data.loading.cpu_decoder import CpuDecoder, MakeDecoder
from data.loading.tuning import Timings, probe


def choose_decoder(name: str, device: torch.device) -> MakeDecoder:
    """Return what makes the decoder called `name`, `cpu` or `dali`, for training on `device`.

    Raises `ValueError` for any other name, and if a package that the decoder needs is missing.
    """
    if name == "cpu":
        return CpuDecoder
    if name != "dali":
        raise ValueError(f"decoder {name!r} is unknown: expected one of cpu, dali")
    try:
        from data.loading.dali_decoder import DaliDecoder
    except ImportError as error:
        raise ValueError(
            f"data.decoder is dali, which needs a package that is missing ({error}): "
            "pip install -e '.[dali]' for CUDA 13, pip install nvidia-dali-cuda120 for CUDA 12, "
            "or set data.decoder: cpu"
        ) from error
    return partial(DaliDecoder, device=device)


def measure(make: MakeDecoder, dataset: FaceDataset, image_size: int) -> Timings:
    """Return how long one thread takes for some images of `dataset` with a decoder from `make`."""
    decoder = make(dataset, image_size=image_size, pin_memory=False, replacement_seed=None)
    with closing(decoder):
        return probe(
            lambda indices: decoder.decode(indices, np.zeros_like(indices)).timings, len(dataset)
        )
