"""What a person sees of a run: log lines, a progress bar, `metrics.jsonl`, TensorBoard.

Rank 0 writes; on the other ranks every method does nothing. The same numbers go to
`metrics.jsonl`, one JSON object per line, and to TensorBoard, so the file holds everything that a
dashboard shows. Training goes on when a write fails, with a warning.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, Self

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from torch import Tensor
from torch.utils.tensorboard import summary
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from recognition.distributed import World
from recognition.telemetry.files import MetricsFile, flatten
from recognition.telemetry.tensorboard_files import Board

log = logging.getLogger("recognition")


class VerificationRecord(Protocol):
    """The result of one verification set. Lives in `eval/`, which is not imported here."""

    @property
    def accuracy(self) -> float:
        """Flip-averaged accuracy, 0 … 1."""
        ...

    def to_json(self) -> dict[str, Any]:
        """Return all figures as plain values, the set's name under `set`."""
        ...

    def summary(self) -> str:
        """Return one line for the log."""
        ...


class Telemetry:
    """Writes a run's numbers. A context manager: entering opens the files, leaving closes them.

    Set `first_step` before entering, if that many steps are done already: records of later steps,
    from an earlier attempt, are dropped, so that the history has one value per step.
    """

    def __init__(self, output: Path, *, world: World, total_steps: int) -> None:
        self.enabled = world.is_main
        self.first_step = 0
        self._total_steps = total_steps
        self._metrics = MetricsFile(output / "metrics.jsonl")
        self._board = Board(output / "tensorboard")
        self._bar: tqdm[Any] | None = None
        self._redirect = logging_redirect_tqdm()

    def __enter__(self) -> Self:
        if self.enabled:
            self._metrics.begin(self.first_step)
            # TensorBoard then drops what earlier attempts wrote from this step on.
            start = SessionLog(status=SessionLog.START)
            first = self.first_step + 1 if self.first_step else 0
            self._board.write([Event(step=first, session_log=start)])
            self._bar = tqdm(
                total=self._total_steps, initial=self.first_step, unit="step", dynamic_ncols=True,
                disable=None, mininterval=1.0,
            )  # fmt: skip
        self._redirect.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.close()
        self._redirect.__exit__(None, None, None)
        self._metrics.lost.report()
        self._board.lost.report()

    def advance(self) -> None:
        """Advance the progress bar by one step."""
        if self._bar is not None:
            self._bar.update()

    def train(self, step: int, values: Mapping[str, float], line: str) -> None:
        """Record the figures of the steps since the last record; `line` goes to the log."""
        self.record("train", step, values)
        if self._bar is not None:
            self._bar.set_postfix_str(f"loss {values['loss']:.3f}", refresh=False)
        log.info(line)

    def verification(
        self, step: int, results: Sequence[VerificationRecord], *, averaged: bool = False
    ) -> None:
        """Record the figures of all sets; those of `averaged` weights as `verification_ema`."""
        for result in results:
            values = result.to_json()
            event = "verification_ema" if averaged else "verification"
            self.record(event, step, values, tag=values["set"])
            of_what = ", averaged weights" if averaged else ""
            log.info("step %d%s | %s", step, of_what, result.summary())

    def record(self, event: str, step: int, values: Mapping[str, Any], tag: str = "") -> None:
        """Append one object to `metrics.jsonl` and its numbers to TensorBoard.

        TensorBoard shows them as `event/name`, or `event/tag/name`, grouped by the first part.
        """
        if not self.enabled:
            return
        self._metrics.write(event, step, values)
        prefix = f"{event}/{tag}/" if tag else f"{event}/"
        scalars = {prefix + name: value for name, value in flatten(values).items()}
        self._board.show(step, [summary.scalar(*pair) for pair in scalars.items()])  # type: ignore[no-untyped-call]

    def images(self, tag: str, images: Tensor, step: int) -> None:
        """Show a grid of images, float [b, 3, S, S] in 0 … 1."""
        if self.enabled:
            self._board.show(step, [summary.image(tag, images)])  # type: ignore[no-untyped-call]

    def text(self, tag: str, text: str) -> None:
        """Show a text, such as the config, on the dashboard."""
        if self.enabled:
            self._board.show(0, [summary.text(tag, f"```\n{text}\n```")])  # type: ignore[no-untyped-call]


def named_figures(
    results: Sequence[VerificationRecord], *, averaged: bool = False
) -> dict[str, float]:
    """Return every number as `set/figure`; of `averaged` weights as `ema/set/figure`."""
    sets = {values["set"]: values for values in (result.to_json() for result in results)}
    return flatten(sets, "ema/" if averaged else "")
