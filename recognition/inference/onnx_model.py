"""Networks in ONNX files, for any batch size."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor


class OnnxModelError(ValueError):
    """An ONNX file that does not map face images to embeddings; has what it does instead."""


class OnnxModel:
    """An ONNX network as a function from images to embeddings.

    A network that was exported with a fixed batch size gets batches of that size, the last one
    padded, so that every file runs with any number of images. The file has one input [n, 3, S, S],
    float32 or float16, and one output [n, d]. For images on CUDA it runs there too, if onnxruntime
    supports it.

    Raises `OnnxModelError` for a file that is not such a network, and `ModuleNotFoundError`, with
    the extra to install, without onnxruntime.
    """

    def __init__(self, path: Path, device: torch.device) -> None:
        try:
            import onnxruntime
        except ModuleNotFoundError:
            raise ModuleNotFoundError(
                f"{path} needs onnxruntime, which is not installed: pip install 'partialfc[onnx]'"
            ) from None
        if not path.is_file():
            raise OnnxModelError(f"{path}: no such file; expected an ONNX network")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3  # its warnings name graph nodes that users cannot fix
        wanted = ["CUDAExecutionProvider"] if device.type == "cuda" else []
        available = onnxruntime.get_available_providers()
        providers = [*(one for one in wanted if one in available), "CPUExecutionProvider"]
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=providers)
        except Exception as error:  # onnxruntime's own exceptions have no common base
            reason = " ".join(str(error).split())
            raise OnnxModelError(f"{path}: onnxruntime cannot load it: {reason}") from error
        self.path = path
        self.metadata: dict[str, str] = self._session.get_modelmeta().custom_metadata_map
        self.version: str = onnxruntime.__version__
        self.provider: str = self._session.get_providers()[0]  # onnxruntime's name of it
        self._input = _input(path, self._session.get_inputs())
        self._dtype = np.float16 if self._input.type == "tensor(float16)" else np.float32
        batch, _, side, _ = self._input.shape
        self.image_size = side if isinstance(side, int) else None  # the file may leave it open
        self._batch = batch if isinstance(batch, int) else None
        outputs = self._session.get_outputs()
        if len(outputs) != 1:
            names = ", ".join(f"{output.name} {output.shape}" for output in outputs)
            raise OnnxModelError(
                f"{path}: {len(outputs)} outputs ({names}); expected one, the embedding [n, d]: "
                "export the network with that output only"
            )

    def __call__(self, images: Tensor) -> Tensor:
        """Return embeddings float32 [b, d], on the CPU, for images float32 [b, 3, S, S].

        Raises `OnnxModelError` for images that the network does not accept, and for embeddings
        of the wrong shape.
        """
        side = self.image_size
        if side is not None and tuple(images.shape[1:]) != (3, side, side):
            raise OnnxModelError(
                f"{self.path}: expected images [n, 3, {side}, {side}], got {list(images.shape)}"
            )
        pixels = np.ascontiguousarray(images.detach().cpu().numpy(), dtype=self._dtype)
        size = self._batch or len(pixels)
        chunks = [pixels[i : i + size] for i in range(0, len(pixels), size)]
        embeddings = np.concatenate([self._run(chunk, size) for chunk in chunks])
        return torch.from_numpy(embeddings.astype(np.float32, copy=False))

    def _run(self, pixels: np.ndarray[Any, Any], size: int) -> np.ndarray[Any, Any]:
        """Return the embeddings of at most `size` images, padded to `size`."""
        count = len(pixels)
        if count < size:
            padding = np.zeros((size - count, *pixels.shape[1:]), dtype=pixels.dtype)
            pixels = np.concatenate((pixels, padding))
        try:
            (output,) = self._session.run(None, {self._input.name: pixels})
        except Exception as error:
            raise OnnxModelError(
                f"{self.path}: fails on images {list(pixels.shape)}: {str(error).strip()}; if it "
                "runs with single images only, use batch size 1, or export it with a free batch "
                "dimension"
            ) from error
        if not isinstance(output, np.ndarray) or output.ndim != 2 or len(output) != size:
            raise OnnxModelError(
                f"{self.path}: returns {getattr(output, 'shape', type(output).__name__)} for "
                f"{size} images, expected one embedding per image, [{size}, d]"
            )
        return output[:count]


def _input(path: Path, inputs: list[Any]) -> Any:
    """Return the only input, checked; sizes that the file leaves open are names."""
    if len(inputs) == 1 and inputs[0].type in ("tensor(float)", "tensor(float16)"):
        shape = inputs[0].shape
        sides = {side for side in shape[2:] if isinstance(side, int)}
        if len(shape) == 4 and shape[1] in (3, None) and len(sides) < 2:
            return inputs[0]
    found = "; ".join(f"{item.name} {item.type} {item.shape}" for item in inputs)
    raise OnnxModelError(
        f"{path}: input {found}; expected one input of float images [n, 3, S, S] (channels "
        "before rows, square)"
    )
