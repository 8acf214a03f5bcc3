"""Which faces of a photo are wanted, and why others are not."""

from dataclasses import dataclass
from typing import Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from data.alignment import AlignmentError
from data.detection.detections import Detections

Policy = Literal["largest", "central", "all", "refuse"]
Doubt = Literal["tiny", "incomplete", "blurred"]

WRITTEN: Final = "written"
REASONS: Final = {
    WRITTEN: "faces written",
    "no_face": "photos without a face",
    "tiny": "faces smaller than --min-face",
    "incomplete": "faces that the photo's edge cuts off",
    "blurred": "faces without the detail that recognition needs",
    "not_chosen": "faces that --faces leaves out",
    "several": "photos with several faces",
    "misfit": "faces whose landmarks do not make a face",
    "unreadable": "photos that cannot be read",
    "too_large": "photos with too many pixels",
    "name": "photos with a name that training would refuse",
}
"""Why a face or a photo ended as it did: the names in the list, and what they mean."""
FAULTS: Final = frozenset(("unreadable", "too_large", "name"))
"""Reasons that a person has something to do about."""

_LEAST_CONTRAST: Final = 8.0  # levels, below which the rounding of pixels would count as detail


@dataclass(frozen=True)
class Choice:
    """Which faces are written."""

    policy: Policy = "largest"
    keep: tuple[Doubt, ...] = ()  # doubtful faces to write all the same
    min_face: float = 40.0  # pixels of the photo, side of a square as large as the face's box
    min_inside: float = 0.8  # of the aligned square, inside the photo
    min_sharpness: float = 0.1  # see `sharpness`

    def __post_init__(self) -> None:
        if self.policy not in get_args(Policy):
            raise AlignmentError(
                f"faces is {self.policy!r}: expected {', '.join(get_args(Policy))}"
            )
        if unknown := set(self.keep) - set(get_args(Doubt)):
            raise AlignmentError(
                f"keep has {sorted(unknown)}: expected {', '.join(get_args(Doubt))}"
            )
        if not self.min_face >= 0:
            raise AlignmentError(f"min_face is {self.min_face}: expected pixels, at least 0")


def choose(found: Detections, size: tuple[int, int], choice: Choice) -> list[str]:
    """Return for each face in a photo of `size` its reason so far, `WRITTEN` if it is wanted.

    Tiny faces are passed over first: somebody far behind is no reason to refuse a portrait.
    """
    sides = face_sides(found)
    tiny = (sides < choice.min_face) & ("tiny" not in choice.keep)
    reasons = np.where(tiny, "tiny", WRITTEN).astype(object)
    wanted = np.flatnonzero(~tiny)
    if len(wanted) > 1 and choice.policy == "refuse":
        reasons[wanted] = "several"
    elif len(wanted) > 1 and choice.policy != "all":
        centres = (found.boxes[wanted, :2] + found.boxes[wanted, 2:]) / 2
        off = np.linalg.norm(centres - np.array(size) / 2, axis=1)
        best = np.argmax(sides[wanted]) if choice.policy == "largest" else np.argmin(off)
        reasons[wanted] = "not_chosen"
        reasons[wanted[best]] = WRITTEN
    return [str(reason) for reason in reasons]


def face_sides(found: Detections) -> NDArray[np.float32]:
    """Return the sides [n] of squares as large as the boxes, in pixels."""
    width, height = (found.boxes[:, 2:] - found.boxes[:, :2]).clip(min=0).T
    sides: NDArray[np.float32] = np.sqrt(width * height)
    return sides


def sharpness(face: Image.Image) -> float:
    """Return how much fine detail a face has for its contrast; 0 for a flat one.

    It is the deviation of the Laplacian over that of the pixels, in grey, of the middle of the face
    at 112 pixels: what is finer or coarser than that is no business of recognition.
    """
    grey = np.asarray(face.convert("L").resize((112, 112), Image.Resampling.BOX), np.float64)
    middle = grey[28:100, 24:88]
    around = middle[:-2, 1:-1] + middle[2:, 1:-1] + middle[1:-1, :-2] + middle[1:-1, 2:]
    laplacian = around - 4 * middle[1:-1, 1:-1]
    return float(laplacian.std() / max(middle.std(), _LEAST_CONTRAST))
