"""TensorBoard's event files."""

import os
import socket
import time
from io import BytesIO
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from recognition.telemetry.files import LostWrites, append


class Board:
    """A file of TensorBoard's events.

    Not torch's `SummaryWriter`: that writes from a thread, which one failed write ends for good,
    with half an event in the file.
    """

    def __init__(self, folder: Path) -> None:
        name = f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}.{os.getpid()}"
        self._file = folder / name
        self.lost = LostWrites(self._file, "records")

    def show(self, step: int, summaries: list[Summary]) -> None:
        """Append summaries of a step."""
        now = time.time()
        self.write([Event(step=step, wall_time=now, summary=item) for item in summaries])

    def write(self, events: list[Event]) -> None:
        """Append events, all or none."""
        buffer = BytesIO()
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            if not self._file.exists():
                events = [Event(wall_time=time.time(), file_version="brain.Event:2"), *events]
            for event in events:
                RecordWriter(buffer).write(event.SerializeToString())
            append(self._file, buffer.getvalue())
        except OSError as error:
            self.lost.add(error)
