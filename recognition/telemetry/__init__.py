"""What a person sees of a run: log lines, a progress bar, `metrics.jsonl`, dashboards."""

from recognition.telemetry.logs import configure_logging, open_log
from recognition.telemetry.meter import Meter, duration, progress_line
from recognition.telemetry.system import by_rank, memory_by_part, peak_memory_bytes
from recognition.telemetry.telemetry import Telemetry, VerificationRecord, named_figures

__all__ = [
    "Meter",
    "Telemetry",
    "VerificationRecord",
    "by_rank",
    "configure_logging",
    "duration",
    "memory_by_part",
    "named_figures",
    "open_log",
    "peak_memory_bytes",
    "progress_line",
]
