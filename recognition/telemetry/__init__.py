"""What a person sees of a run: log lines, a progress bar, `metrics.jsonl`, dashboards."""

from recognition.telemetry.logs import configure_logging, open_log
from recognition.telemetry.memory import peak_memory_bytes
from recognition.telemetry.meter import Meter, duration
from recognition.telemetry.telemetry import Telemetry, VerificationRecord, named_figures

__all__ = [
    "Meter",
    "Telemetry",
    "VerificationRecord",
    "configure_logging",
    "duration",
    "named_figures",
    "open_log",
    "peak_memory_bytes",
]
