"""What every logger does: the interface, the values that it shows, and one that works apart."""

import queue
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from recognition.telemetry.files import LostWrites

BINS = 30
WAITING = 1000  # calls that may wait for a logger; later ones are lost
FINISHED_WITHIN = 60.0  # seconds that the end of a run waits for a logger
STOPPED_WITHIN = 10.0  # after an error or a signal: `torchrun` kills what has not ended in 30 s

Pixels = NDArray[np.uint8]  # [height, width, 3]


@dataclass(frozen=True)
class RunInfo:
    """The run that a logger shows."""

    folder: Path
    first_step: int = 0  # above 0 for one that goes on
    # Every setting that may change a result, by dotted name, in the order of the config.
    settings: Mapping[str, bool | int | float | str] = field(default_factory=dict)


@dataclass(frozen=True)
class Histogram:
    """How many of some numbers are in each of consecutive intervals of one width."""

    edges: Sequence[float]  # one more than intervals, ascending
    counts: Sequence[int]
    total: float  # of the numbers
    squares: float

    @classmethod
    def of(cls, numbers: NDArray[np.floating[Any]]) -> Self | None:
        """Return that of the finite ones of some numbers, in `BINS` intervals; None for none."""
        finite = np.asarray(numbers, dtype=np.float64)
        finite = finite[np.isfinite(finite)]
        if not len(finite):
            return None
        counts, edges = np.histogram(finite, BINS)
        return cls(edges.tolist(), counts.tolist(), float(finite.sum()), float(finite @ finite))

    def to_json(self) -> dict[str, Any]:
        """Return the counts, and where the first interval begins and the last one ends."""
        return {"range": [self.edges[0], self.edges[-1]], "counts": self.counts}


class Faces(Protocol):
    """Some faces of a verification set. Lives in `eval/`, which is not imported here."""

    @property
    def images(self) -> Sequence[bytes | memoryview]:
        """The encoded image of each."""
        ...

    @property
    def embeddings(self) -> NDArray[np.floating[Any]]:
        """The embedding of each, of any norm: [n, d]."""
        ...

    @property
    def people(self) -> Sequence[int]:
        """Whom each shows: faces of one number are known to be of one person."""
        ...


class Logger:
    """Shows a run somewhere. What a kind cannot show it leaves out: it overrides some of these.

    Any of them may raise any error: whoever calls counts it, warns, and goes on.
    """

    def __init__(self, name: str | Path) -> None:
        self.lost = LostWrites(name, "records")

    def start(self, run: RunInfo) -> None:
        """Begin; called once, first."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Show numbers of a step by name."""

    def histograms(self, step: int, values: Mapping[str, Histogram]) -> None:
        """Show histograms by name."""

    def image(self, step: int, name: str, pixels: Pixels) -> None:
        """Show a picture."""

    def text(self, name: str, text: str) -> None:
        """Show a text of the run, such as the config."""

    def faces(self, step: int, sets: Mapping[str, Faces]) -> None:
        """Show where faces are in the space of embeddings, by the name of their set."""

    def finish(self, figures: Mapping[str, float], *, failed: bool) -> None:
        """End; called once, last, with the last value of every number."""


class InBackground(Logger):
    """A logger in a thread of its own, as a network may make it wait: training never does.

    Calls come in their order; those that would make too many wait are lost.
    """

    def __init__(self, logger: Logger) -> None:
        super().__init__(logger.lost.path)
        self.lost = logger.lost
        self._logger = logger
        self._calls: queue.Queue[tuple[str, tuple[Any, ...], dict[str, Any]]]
        self._calls = queue.Queue(WAITING)
        self._thread = threading.Thread(target=self._work, name="logger", daemon=True)
        self._thread.start()

    def start(self, run: RunInfo) -> None:
        """See `Logger`."""
        self._put("start", run)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """See `Logger`."""
        self._put("scalars", step, values)

    def histograms(self, step: int, values: Mapping[str, Histogram]) -> None:
        """See `Logger`."""
        self._put("histograms", step, values)

    def image(self, step: int, name: str, pixels: Pixels) -> None:
        """See `Logger`."""
        self._put("image", step, name, pixels)

    def text(self, name: str, text: str) -> None:
        """See `Logger`."""
        self._put("text", name, text)

    def faces(self, step: int, sets: Mapping[str, Faces]) -> None:
        """See `Logger`."""
        self._put("faces", step, sets)

    def finish(self, figures: Mapping[str, float], *, failed: bool) -> None:
        """See `Logger`."""
        self._put("finish", figures, failed=failed)
        seconds = STOPPED_WITHIN if failed else FINISHED_WITHIN
        self._thread.join(seconds)
        if self._thread.is_alive():
            raise TimeoutError(f"not done {seconds:.0f} s after the end of the run")

    def _put(self, method: str, *arguments: Any, **options: Any) -> None:
        try:
            self._calls.put_nowait((method, arguments, options))
        except queue.Full:
            raise TimeoutError(f"{WAITING} calls wait for it") from None

    def _work(self) -> None:
        method, usable = "", True
        while method != "finish":
            method, arguments, options = self._calls.get()
            try:
                if usable:
                    getattr(self._logger, method)(*arguments, **options)
                elif method != "finish":
                    self.lost.count += 1
            except Exception as error:  # whatever a library raises must not end the run
                self.lost.add(error)
                usable = usable and method != "start"
