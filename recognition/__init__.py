"""Training of face recognition networks: config, head, trainer, checkpoints, telemetry."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from recognition.head import PartialFC

__all__ = ["PartialFC", "__version__"]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import the head when it is asked for: torch takes seconds, and tools for data need none."""
    if name != "PartialFC":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from recognition.head import PartialFC

    return PartialFC
