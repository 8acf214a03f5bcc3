"""ONNX networks in fewer bits, by the quantiser of onnxruntime.

Shape legend: b images of a batch, S image side.
"""

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


def to_fp16(source: Path, target: Path) -> None:
    """Write a network with float16 inside; images and embeddings stay float32."""
    try:
        import onnx
        from onnxruntime.transformers.float16 import convert_float_to_float16
    except ModuleNotFoundError as error:
        raise _missing(target, error) from None
    model = convert_float_to_float16(onnx.load(source), keep_io_types=True)
    onnx.save(model, target)


def to_int8(source: Path, target: Path, batches: Iterable[NDArray[np.float32]]) -> None:
    """Write a network whose products are of 8-bit integers; images and embeddings stay float32.

    Weights have a scale per channel; those of activations follow from `batches`, some hundred
    faces [b, 3, S, S] in [-1, 1] as the network will see them. An `OSError` is one of writing.
    """
    try:
        import onnx
        from onnxruntime import quantization
    except ModuleNotFoundError as error:
        raise _missing(target, error) from None

    name = onnx.load(source, load_external_data=False).graph.input[0].name

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._batches = iter(batches)

        def get_next(self) -> dict[str, Any] | None:
            try:
                images = next(self._batches, None)
            except OSError as error:  # no fault of the file that is written
                raise ValueError(f"images to calibrate {target.name} by: {error}") from error
            return None if images is None else {name: images}

    level = logging.root.manager.disable
    logging.disable(logging.WARNING)  # it recommends a step that the export has taken
    try:
        quantization.quantize_static(
            source,
            target,
            Reader(),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
        )
    finally:
        logging.disable(level)


def _missing(target: Path, error: ModuleNotFoundError) -> ModuleNotFoundError:
    return ModuleNotFoundError(
        f"{target} needs {error.name}, which is not installed: pip install 'partialfc[onnx]'"
    )
