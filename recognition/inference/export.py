"""Writes a backbone in the forms that other tools read, each compared with the original.

ONNX is what the `insightface` package takes as a recognition model: one input float32
[n, 3, S, S] of any n, RGB, (pixel - 127.5) / 127.5, which is what it assumes of a graph that does
not begin with nodes called `Sub` and `Mul`; and one output [n, d].
"""

import io
import logging
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from recognition.inference.exported_model import ExportedModel
from recognition.inference.networks import SAFETENSORS
from recognition.inference.onnx_model import OnnxModel
from recognition.inference.pixels import Model, PixelFormat
from recognition.inference.safetensors_file import write_safetensors

OPSET: Final = 18
TOLERANCE: Final = 1e-4  # of the length of an embedding
BATCHES: Final = (1, 7)  # sizes that are compared
ONNX, TORCH_EXPORT = "model.onnx", "model.pt2"


class ExportError(ValueError):
    """A file whose embeddings are not those of the network."""


def export_backbone(
    backbone: nn.Module, folder: Path, *, image_size: int, metadata: dict[str, str]
) -> dict[str, float]:
    """Write `model.onnx`, `model.pt2` and `model.safetensors` into a folder that exists.

    `backbone` is on the CPU. `metadata` goes into the ONNX file, beside the pixel format. Returns
    the largest relative difference of the embeddings in each file. Raises `ExportError` where one
    is above `TOLERANCE`, and before anything is written where the network's own embeddings are not
    finite; `ModuleNotFoundError`, with the extra to install, without a package; and `OSError`.
    """
    backbone = backbone.eval().to(memory_format=torch.contiguous_format)
    if math.isnan(difference(backbone, backbone, image_size)):
        raise ExportError(
            "the network makes embeddings that are not finite, of which no file can be compared: "
            "export another checkpoint, or train again with a lower optimizer.lr"
        )
    write_safetensors(folder / SAFETENSORS, backbone.state_dict())
    batch = torch.export.Dim("batch")
    example = torch.zeros(2, 3, image_size, image_size)
    with torch.no_grad(), _quiet():
        program = torch.export.export(backbone, (example,), dynamic_shapes=({0: batch},))
    for module in program.graph_module.modules():
        for node in module.graph.nodes if isinstance(module, torch.fx.GraphModule) else ():
            node.meta.pop("stack_trace", None)  # paths of this machine
    content = io.BytesIO()  # given a path, torch ends the process where its disk is full
    torch.export.save(program, content)
    (folder / TORCH_EXPORT).write_bytes(content.getbuffer())
    write_onnx(program, folder / ONNX, metadata)
    device = torch.device("cpu")
    forms: dict[str, Model] = {
        ONNX: OnnxModel(folder / ONNX, device),
        TORCH_EXPORT: ExportedModel(folder / TORCH_EXPORT, device),
    }
    found = {name: difference(backbone, model, image_size) for name, model in forms.items()}
    for name, value in found.items():
        if not value <= TOLERANCE:
            raise ExportError(
                f"{folder / name}: embeddings differ from the network's by {value:.2g} of their "
                f"length, expected at most {TOLERANCE:g}; another version of onnxruntime or torch "
                "may be right"
            )
    return found


def write_onnx(program: torch.export.ExportedProgram, path: Path, metadata: dict[str, str]) -> None:
    """Write a program of images as ONNX, with its metadata and nothing of this machine."""
    try:
        import onnxscript  # noqa: F401 - what torch.onnx needs
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            f"{path} needs onnxscript, which is not installed: pip install 'partialfc[onnx]'"
        ) from None
    with _quiet():
        exported = torch.onnx.export(
            program, dynamo=True, opset_version=OPSET, input_names=["images"],
            output_names=["embeddings"], external_data=False, verbose=False,
        )  # fmt: skip
    assert exported is not None, "with dynamo it is returned"
    model: Any = exported.model
    for node in model.graph:
        node.metadata_props.clear()
    model.metadata_props.clear()
    pixels = PixelFormat()
    own = {"mean": str(pixels.mean), "std": str(pixels.std), "channels": pixels.channels}
    model.metadata_props.update({**metadata, **own})
    exported.save(path, external_data=False)


def difference(expected: Model, found: Model, image_size: int) -> float:
    """Return the largest distance of two networks' embeddings of a face, relative to its length.

    Over batches of `BATCHES` random images, the same at each call. NaN where one is not finite.
    """
    generator = torch.Generator().manual_seed(0)
    differences = []
    for size in BATCHES:
        images = torch.rand(size, 3, image_size, image_size, generator=generator) * 2 - 1
        with torch.no_grad():
            one, other = expected(images).double(), found(images).double()
        differences.append(_relative(one, other))
    return float(torch.cat(differences).max())  # NaN if one is


def _relative(expected: Tensor, found: Tensor) -> Tensor:
    lengths = expected.norm(dim=1).clamp_min(torch.finfo(torch.float32).tiny)
    relative: Tensor = (found - expected).norm(dim=1) / lengths
    return relative


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress what exporters say to their own developers."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
