"""A run's numbers, pictures and texts, on rank 0: in `metrics.jsonl` and on dashboards.

On the other ranks every method does nothing. `metrics.jsonl` is the complete record: dashboards
show nothing else but pictures. Training goes on when a logger fails, with a warning.
"""

import importlib.util
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from recognition.distributed import World
from recognition.telemetry.files import MetricsFile, flatten
from recognition.telemetry.logger import Faces, Histogram, InBackground, Logger, Pixels, RunInfo
from recognition.telemetry.mlflow_log import MlflowLog
from recognition.telemetry.plots import Scores, can_draw, draw_roc, draw_scores, score_histogram
from recognition.telemetry.tensorboard_log import TensorBoardLog
from recognition.telemetry.wandb_log import WandbLog

log = logging.getLogger("recognition")

# Their packages, which are extras of the same name.
_EXTRAS: dict[str, Callable[[], Logger]] = {"wandb": WandbLog, "mlflow": MlflowLog}
_ACROSS = 8  # images in a row of a grid


class VerificationRecord(Protocol):
    """The result of one verification set. Lives in `eval/`, which is not imported here."""

    @property
    def accuracy(self) -> float | None:
        """Flip-averaged accuracy, 0 … 1; None for a set that has none."""
        ...

    def to_json(self) -> dict[str, Any]:
        """Return all figures as plain values, the set's name under `set`."""
        ...

    def summary(self) -> str:
        """Return one line for the log."""
        ...

    @property
    def scores(self) -> Scores | None:
        """The cosines of its pairs, where they are known."""
        ...

    @property
    def faces(self) -> Faces | None:
        """Some of its faces, to be looked at."""
        ...


class Telemetry:
    """Writes a run's numbers. A context manager: entering opens the files, leaving closes them.

    Set `first_step` before entering, if that many steps are done already: records of later steps,
    from an earlier attempt, are dropped, so that the history has one value per step.

    Args:
        output: the run folder.
        world: the ranks.
        total_steps: of the whole run.
        loggers: what shows the numbers, besides `metrics.jsonl`: names of `log.loggers`.
        settings: the resolved config as plain values, to compare runs by.

    Raises `ValueError` for a logger that is not installed.
    """

    def __init__(
        self,
        output: Path,
        *,
        world: World,
        total_steps: int,
        loggers: Sequence[str] = ("tensorboard",),
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        for name in loggers:
            if name in _EXTRAS and importlib.util.find_spec(name) is None:
                raise ValueError(
                    f"log.loggers has {name}, which is not installed: pip install -e '.[{name}]', "
                    "or leave it out"
                )
        self.enabled = world.is_main
        self.first_step = 0
        self._output, self._total_steps = output, total_steps
        self._settings = dotted(settings or {})
        self._metrics = MetricsFile(output / "metrics.jsonl")
        self._names = list(loggers) if self.enabled else []
        self._loggers: list[Logger] = []
        self._last: dict[str, float] = {}  # value of every number
        self._draws: bool | None = None  # not known before the first picture
        self._bar: tqdm[Any] | None = None
        self._redirect = logging_redirect_tqdm()

    def __enter__(self) -> Self:
        if self.enabled:
            self._metrics.begin(self.first_step)
            for name in self._names:
                board = self._output / "tensorboard"
                made = InBackground(_EXTRAS[name]()) if name in _EXTRAS else TensorBoardLog(board)
                self._loggers.append(made)
            run = RunInfo(self._output, self.first_step, self._settings)
            self._tell(lambda logger: logger.start(run))
            self._bar = tqdm(
                total=self._total_steps, initial=self.first_step, unit="step", dynamic_ncols=True,
                disable=None, mininterval=1.0,
            )  # fmt: skip
        self._redirect.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        if self._bar is not None:
            self._bar.close()
        self._redirect.__exit__(None, None, None)
        self._tell(lambda logger: logger.finish(self._last, failed=kind is not None))
        self._metrics.lost.report()
        for logger in self._loggers:
            logger.lost.report()

    def advance(self) -> None:
        """Advance the progress bar by one step."""
        if self._bar is not None:
            self._bar.update()

    def train(
        self,
        step: int,
        values: Mapping[str, Any],
        line: str,
        samples: Mapping[str, NDArray[np.floating[Any]]] | None = None,
    ) -> None:
        """Record the figures of the steps since the last record; `line` goes to the log.

        Of `samples`, a number of each sample of the last step by name, there are histograms.
        """
        made = {name: Histogram.of(numbers) for name, numbers in (samples or {}).items()}
        histograms = {name: found for name, found in made.items() if found is not None}
        if histograms:
            values = {**values, "histograms": {n: h.to_json() for n, h in histograms.items()}}
            shown = {f"samples/{name}": found for name, found in histograms.items()}
            self._tell(lambda logger: logger.histograms(step, shown))
        self.record("train", step, values)
        if self._bar is not None:
            self._bar.set_postfix_str(f"loss {values['loss']:.3f}", refresh=False)
        log.info(line)

    def verification(
        self, step: int, results: Sequence[VerificationRecord], *, averaged: bool = False
    ) -> None:
        """Record the figures of all sets; those of `averaged` weights as `verification_ema`."""
        event = "verification_ema" if averaged else "verification"
        faces: dict[str, Faces] = {}
        for result in results:
            values = result.to_json()
            name = values["set"]
            if self.enabled and result.scores is not None:
                values["score_histogram"] = score_histogram(result.scores)
                self._draw(step, event, name, result.scores)
            if self.enabled and result.faces is not None:
                faces[name] = result.faces
            self.record(event, step, values, tag=name)
            of_what = ", averaged weights" if averaged else ""
            log.info("step %d%s | %s", step, of_what, result.summary())
        if faces and not averaged:
            self._tell(lambda logger: logger.faces(step, faces))

    def record(self, event: str, step: int, values: Mapping[str, Any], tag: str = "") -> None:
        """Append one object to `metrics.jsonl` and its numbers to the dashboards.

        They show them as `event/name`, or `event/tag/name`, grouped by the first part.
        """
        if not self.enabled:
            return
        self._metrics.write(event, step, values)
        prefix = f"{event}/{tag}/" if tag else f"{event}/"
        scalars = {prefix + name: value for name, value in flatten(values).items()}
        self._last |= scalars
        self._tell(lambda logger: logger.scalars(step, scalars))

    def images(self, tag: str, images: Tensor, step: int) -> None:
        """Show a grid of images, float [b, 3, S, S] in 0 … 1."""
        if self.enabled:
            pixels = _grid((images * 255).clamp(0, 255).byte().cpu().numpy())
            self._picture(step, tag, pixels)

    def text(self, tag: str, text: str) -> None:
        """Show a text, such as the config, on the dashboard."""
        self._tell(lambda logger: logger.text(tag, text))

    def _draw(self, step: int, event: str, name: str, scores: Scores) -> None:
        if self._draws is None and self._loggers:
            self._draws = can_draw()
            if not self._draws:
                log.info("no figures of ROC and scores: pip install -e '.[plots]' for matplotlib")
        if self._draws:
            for kind, draw in (("roc", draw_roc), ("scores", draw_scores)):
                self._picture(step, f"{event}_pairs/{name}/{kind}", draw(name, scores))

    def _picture(self, step: int, name: str, pixels: Pixels) -> None:
        self._tell(lambda logger: logger.image(step, name, pixels))

    def _tell(self, call: Callable[[Logger], None]) -> None:
        """Have every logger do something; an error costs what it was to show."""
        for logger in self._loggers:
            try:
                call(logger)
            except Exception as error:  # whatever a library raises must not end the run
                logger.lost.add(error)


def dotted(values: Mapping[str, Any], prefix: str = "") -> dict[str, bool | int | float | str]:
    """Return the values in nested mappings under dotted names; a list or null as text."""
    flat: dict[str, bool | int | float | str] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat.update(dotted(value, f"{prefix}{name}."))
        else:
            known = isinstance(value, bool | int | float | str)
            flat[prefix + name] = value if known else json.dumps(value)
    return flat


def _grid(images_b3SS: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return images in rows as one picture, uint8 [height, width, 3]."""
    count, colours, side, _ = images_b3SS.shape
    across = min(count, _ACROSS)
    rows = -(-count // across)
    sheet = np.zeros((rows * across, colours, side, side), np.uint8)
    sheet[:count] = images_b3SS
    tiles = sheet.reshape(rows, across, colours, side, side).transpose(0, 3, 1, 4, 2)
    return np.ascontiguousarray(tiles.reshape(rows * side, across * side, colours))


def named_figures(
    results: Sequence[VerificationRecord], *, averaged: bool = False
) -> dict[str, float]:
    """Return every number as `set/figure`; of `averaged` weights as `ema/set/figure`."""
    sets = {values["set"]: values for values in (result.to_json() for result in results)}
    return flatten(sets, "ema/" if averaged else "")
