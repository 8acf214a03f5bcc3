"""TensorBoard: event files, the pages of its custom scalars, hyper-parameters, the projector."""

import io
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path

from PIL import Image
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard import summary

from recognition.telemetry.files import append
from recognition.telemetry.layout import PAGES
from recognition.telemetry.logger import Faces, Histogram, Logger, Pixels, RunInfo
from recognition.telemetry.projector import write_projector

# Settings in the table of runs, which has too many columns with all: those are in the tab "Text".
_COMPARED = (
    "backbone.name", "backbone.embedding_size", "head.loss.name", "head.loss.m", "head.scale",
    "head.sampling", "head.sample_rate", "head.placement", "head.storage", "optimizer.name",
    "optimizer.lr", "optimizer.weight_decay", "train.global_batch_size", "train.epochs",
    "train.steps", "train.precision", "train.ema", "seed",
)  # fmt: skip
_FINAL = ("loss", "cosine_positive")  # of training, in the table of runs
_OF_SETS = ("accuracy", "tar_at_far/1e-3", "tar_at_far/1e-4")  # of each verification set


class TensorBoardLog(Logger):
    """TensorBoard's files in a folder of the run.

    Not torch's `SummaryWriter`: that writes from a thread, which one failed write ends for good,
    with half an event in the file.
    """

    def __init__(self, folder: Path) -> None:
        name = f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}.{os.getpid()}"
        self._file = folder / name
        super().__init__(self._file)
        self._settings: dict[str, bool | int | float | str] = {}

    def start(self, run: RunInfo) -> None:
        """See `Logger`."""
        # TensorBoard then drops what earlier attempts wrote from this step on.
        start = SessionLog(status=SessionLog.START)
        first = run.first_step + 1 if run.first_step else 0
        self._write([Event(step=first, session_log=start)])
        charts = {
            page: {title: ["Multiline", names] for title, names in of_page.items()}
            for page, of_page in PAGES.items()
        }
        self._settings = {name: run.settings[name] for name in _COMPARED if name in run.settings}
        _, session, _ = summary.hparams(self._settings, {})  # type: ignore[no-untyped-call]
        self._show(run.first_step, [summary.custom_scalars(charts), session])  # type: ignore[no-untyped-call]

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """See `Logger`."""
        self._show(step, [summary.scalar(*pair) for pair in values.items()])  # type: ignore[no-untyped-call]

    def histograms(self, step: int, values: Mapping[str, Histogram]) -> None:
        """See `Logger`."""
        summaries = [
            summary.histogram_raw(  # type: ignore[no-untyped-call]
                name, found.edges[0], found.edges[-1], sum(found.counts), found.total,
                found.squares, found.edges[1:], found.counts,
            )
            for name, found in values.items()
        ]  # fmt: skip
        self._show(step, summaries)

    def image(self, step: int, name: str, pixels: Pixels) -> None:
        """See `Logger`."""
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, "PNG")
        height, width, colours = pixels.shape
        image = Summary.Image(
            height=height, width=width, colorspace=colours, encoded_image_string=stream.getvalue()
        )
        self._show(step, [Summary(value=[Summary.Value(tag=name, image=image)])])

    def text(self, name: str, text: str) -> None:
        """See `Logger`."""
        self._show(0, [summary.text(name, f"```\n{text}\n```")])  # type: ignore[no-untyped-call]

    def faces(self, step: int, sets: Mapping[str, Faces]) -> None:
        """See `Logger`."""
        write_projector(self._file.parent, sets)

    def finish(self, figures: Mapping[str, float], *, failed: bool) -> None:
        """See `Logger`. TensorBoard keeps the first end that it sees; a failed run may go on."""
        if failed:
            return
        shown = [name for name in figures if _is_final(name)]
        experiment, _, end = summary.hparams(self._settings, dict.fromkeys(shown, 0.0))  # type: ignore[no-untyped-call]
        self._show(0, [experiment, end])

    def _show(self, step: int, summaries: list[Summary]) -> None:
        """Append summaries of a step."""
        now = time.time()
        self._write([Event(step=step, wall_time=now, summary=item) for item in summaries])

    def _write(self, events: list[Event]) -> None:
        """Append events, all or none."""
        buffer = io.BytesIO()
        self._file.parent.mkdir(parents=True, exist_ok=True)
        if not self._file.exists():
            events = [Event(wall_time=time.time(), file_version="brain.Event:2"), *events]
        for event in events:
            RecordWriter(buffer).write(event.SerializeToString())
        append(self._file, buffer.getvalue())


def _is_final(name: str) -> bool:
    """Return whether the table of runs shows a figure."""
    event, _, rest = name.partition("/")
    if event == "train":
        return rest in _FINAL
    return event.startswith("verification") and rest.partition("/")[2] in _OF_SETS
