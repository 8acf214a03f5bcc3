"""Networks in files of `torch.export`, for any batch size."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor


class ExportedModelError(ValueError):
    """A file that is no exported network from face images to embeddings; has what it is instead."""


class ExportedModel:
    """A network of `torch.export.save` as a function from images to embeddings.

    A network that was exported with a fixed batch size gets batches of that size, the last one
    padded. It has one input, float32 [n, 3, S, S], and one output [n, d]. Use files from a source
    that you trust: unlike a weight file, such a file holds a program.

    Raises `ExportedModelError` for a file that is not such a network.
    """

    def __init__(self, path: Path, device: torch.device) -> None:
        if not path.is_file():
            raise ExportedModelError(f"{path}: no such file; expected one of torch.export.save")
        try:
            program = torch.export.load(path)
            self._module = program.module().to(device)
        except Exception as error:  # damage causes nearly every kind
            reason = " ".join(str(error)[:200].split())
            raise ExportedModelError(
                f"{path}: torch.export cannot load it: {type(error).__name__}: {reason}; export it "
                f"again with this torch, {torch.__version__}"
            ) from error
        self.path = path
        shape = _input_shape(path, program)
        self.image_size = shape[2] if isinstance(shape[2], int) else None
        self._batch = shape[0] if isinstance(shape[0], int) else None

    def __call__(self, images: Tensor) -> Tensor:
        """Return embeddings [b, d] for images float32 [b, 3, S, S]; raises `ExportedModelError`."""
        size = self._batch or len(images)
        return torch.cat([self._run(part, size) for part in torch.split(images, size)])

    def _run(self, images: Tensor, size: int) -> Tensor:
        count = len(images)
        if count < size:
            images = torch.cat([images, images.new_zeros(size - count, *images.shape[1:])])
        try:
            output = self._module(images.contiguous())
        except Exception as error:  # a guard of the exported program, or an operation
            reason = " ".join(str(error)[:200].split())
            raise ExportedModelError(
                f"{self.path}: fails on images {list(images.shape)}: {reason}; export it for "
                "images of this size, with a free batch dimension"
            ) from error
        if not isinstance(output, Tensor) or output.ndim != 2 or len(output) != size:
            found = getattr(output, "shape", type(output).__name__)
            raise ExportedModelError(
                f"{self.path}: returns {found} for {size} images, expected one embedding per "
                f"image, [{size}, d]"
            )
        return output[:count].float()


def _input_shape(path: Path, program: Any) -> list[Any]:
    """Return the shape of the only input; sizes that are free are no `int`."""
    names = program.graph_signature.user_inputs
    inputs = [node for node in program.graph.nodes if node.name in names]
    shapes = [list(getattr(node.meta.get("val"), "shape", [])) for node in inputs]
    if len(shapes) != 1 or len(shapes[0]) != 4 or shapes[0][1] != 3:
        raise ExportedModelError(
            f"{path}: inputs of shapes {shapes}; expected one, images [n, 3, S, S]"
        )
    return shapes[0]
