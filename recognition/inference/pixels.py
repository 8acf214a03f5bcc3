"""What a network expects of its input."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

from torch import Tensor

Model = Callable[[Tensor], Tensor]  # from images float32 [n, 3, S, S] to embeddings [n, d]

MID_GREY: Final = 127.5  # of pixels from 0 to 255: what is subtracted, and divided by


@dataclass(frozen=True)
class PixelFormat:
    """What a network expects of its input; by default what this project trains with."""

    mean: float = MID_GREY  # to subtract from pixels of 0 to 255
    std: float = MID_GREY  # to divide them by, after that
    channels: Literal["rgb", "bgr"] = "rgb"

    def __post_init__(self) -> None:
        """Raise `ValueError` for values that pixels cannot be changed by."""
        if not self.std > 0:
            raise ValueError(f"std is {self.std}: expected a positive number")
        if self.channels not in ("rgb", "bgr"):
            raise ValueError(f"channels is {self.channels!r}: expected rgb or bgr")

    def adapt(self, model: Model) -> Model:
        """Return the model for RGB images in [-1, 1]."""
        rescale = (self.mean, self.std) != (MID_GREY, MID_GREY)

        def embed(images: Tensor) -> Tensor:
            if rescale:
                images = (images * MID_GREY + MID_GREY - self.mean) / self.std
            return model(images.flip(1) if self.channels == "bgr" else images)

        return embed
