"""The networks are the published ones: names, order and shapes of weights, and values."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from backbones import build_backbone

pytestmark = pytest.mark.slow

GOLDEN = Path(__file__).parents[1] / "fixtures" / "golden"
STATE_DICTS = json.loads((GOLDEN / "backbone_state_dicts.json").read_text())


def formula_weight(name: str, shape: tuple[int, ...]) -> Tensor:
    """Weights without a file: a sine whose phase is computed from the name."""
    if name.endswith("num_batches_tracked"):
        return torch.tensor(0)
    count = int(np.prod(shape))
    phase = int(hashlib.sha256(name.encode()).hexdigest()[:8], 16) % 1_000_003 * 1e-3
    v = np.sin(0.7310585 * np.arange(count) + phase)
    if name.endswith("running_var"):
        v = 1 + 0.1 * v
    elif name.endswith("running_mean"):
        v = 0.05 * v
    elif len(shape) > 1:
        v *= np.sqrt(1.5 / (count // shape[0]))
    elif "prelu" in name or name.endswith(".2.weight"):
        v = 0.25 + 0.05 * v
    elif name.endswith("weight"):
        v = 1 + 0.1 * v
    else:
        v = 0.05 * v
    return torch.from_numpy(v.reshape(shape)).float()


def formula_images() -> Tensor:
    i = np.arange(3 * 112 * 112)
    images = [np.sin(0.01 * i + b) * np.cos(0.0037 * (b + 1) * i) for b in (0, 1)]
    return torch.from_numpy(np.stack(images)).float().view(2, 3, 112, 112)


@pytest.mark.parametrize("name", STATE_DICTS)
def test_names_order_and_shapes(name: str) -> None:
    with torch.device("meta"):
        backbone = build_backbone(name)
    expected = STATE_DICTS[name]
    shapes = {key: list(value.shape) for key, value in backbone.state_dict().items()}
    assert list(shapes.items()) == list(expected["state_dict"].items())
    assert sum(parameter.numel() for parameter in backbone.parameters()) == expected["params"]


@pytest.mark.parametrize("name", ["r18", "r50", "r100", "mbf"])
def test_embeddings(name: str) -> None:
    with torch.device("meta"):
        backbone = build_backbone(name)
    shapes = {key: tuple(value.shape) for key, value in backbone.state_dict().items()}
    weights = {key: formula_weight(key, shape) for key, shape in shapes.items()}
    backbone.load_state_dict(weights, assign=True)
    expected = np.load(GOLDEN / "backbone_embeddings.npz")[name]
    for memory_format in (torch.contiguous_format, torch.channels_last):
        backbone = backbone.eval().to(memory_format=memory_format)
        with torch.no_grad():
            found = backbone(formula_images().to(memory_format=memory_format)).numpy()
        # float32 sums of up to 4,608 products in another order (other convolution kernels) differ
        # by some sqrt(4608) * 2^-24 = 4e-6, and by 4e-5 behind 100 layers: seen up to 9e-6.
        assert np.linalg.norm(found - expected) < 1e-4 * np.linalg.norm(expected)
