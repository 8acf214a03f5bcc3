"""Training and use of face recognition networks: config, head, trainer, checkpoints, inference."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from recognition.head import PartialFC
    from recognition.inference import FaceEmbedder

__all__ = ["FaceEmbedder", "PartialFC", "__version__"]

__version__ = "0.1.0"

_HOMES = {"FaceEmbedder": "recognition.inference", "PartialFC": "recognition.head"}


def __getattr__(name: str) -> Any:
    """Import a class when it is asked for: torch takes seconds, and tools for data need none."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
