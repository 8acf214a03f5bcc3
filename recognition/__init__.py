"""Training of face recognition networks: config, head, trainer, checkpoints, telemetry."""

from recognition.head import PartialFC
from recognition.version import __version__

__all__ = ["PartialFC", "__version__"]
