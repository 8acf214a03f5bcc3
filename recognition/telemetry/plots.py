"""Pictures of a verification set's scores: the ROC, and the scores of both kinds of pairs.

Drawn by matplotlib where it is installed. Shapes: p pairs.
"""

import importlib.util
from functools import cache
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from recognition.telemetry.logger import Pixels

# Of Okabe and Ito: people with any colour blindness tell them apart.
SAME, DIFFERENT, THRESHOLD = "#0072b2", "#d55e00", "#000000"
BINS = 60


class Scores(Protocol):
    """The pairs of a verification set. Lives in `eval/`, which is not imported here."""

    @property
    def cosine(self) -> NDArray[np.floating[Any]]:
        """Of each pair, [p]."""
        ...

    @property
    def same(self) -> NDArray[np.bool_]:
        """Whether it shows one person, [p]."""
        ...

    @property
    def threshold(self) -> float:
        """The cosine above which a pair is taken for one person."""
        ...


def can_draw() -> bool:
    """Return whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def roc(scores: Scores) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return false and true accept rates at every threshold that a cosine is, from 0 to 1."""
    order = np.argsort(-scores.cosine, kind="stable")
    cosine, same = scores.cosine[order], scores.same[order]
    last = np.append(np.flatnonzero(np.diff(cosine)), len(cosine) - 1)  # of equal cosines
    true, false = np.cumsum(same)[last], np.cumsum(~same)[last]
    return np.append(0.0, false / false[-1]), np.append(0.0, true / true[-1])


def score_histogram(scores: Scores) -> dict[str, Any]:
    """Return counts of the cosines of both kinds of pairs, in `BINS` intervals of one width.

    By the names `same` and `different`; `range` is where the first interval begins and the last
    one ends.
    """
    low, high = float(scores.cosine.min()), float(scores.cosine.max())
    if low == high:  # embeddings that have collapsed
        low, high = low - 0.5, high + 0.5
    kinds = {"same": scores.same, "different": ~scores.same}
    counts = {
        name: np.histogram(scores.cosine[kind], BINS, (low, high))[0].tolist()
        for name, kind in kinds.items()
    }
    return {"range": [low, high], **counts}


def draw_roc(name: str, scores: Scores) -> Pixels:
    """Return the ROC of a set, its false accept rates on a logarithmic scale."""
    false, true = roc(scores)
    negatives = int(np.count_nonzero(~scores.same))
    figure, axes = _empty_figure()
    axes.step(np.maximum(false, 0.5 / negatives), true, where="post", color=SAME, linewidth=2)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlim(0.5 / negatives, 1.0)
    axes.set_ylim(0.0, 1.02)
    axes.set_xlabel(f"false accept rate, of {negatives:,} pairs of two people")
    positives = int(np.count_nonzero(scores.same))
    axes.set_ylabel(f"true accept rate, of {positives:,} pairs")
    axes.set_title(f"{name}: ROC")
    axes.grid(which="both", alpha=0.3)
    return _pixels(figure)


def draw_scores(name: str, scores: Scores) -> Pixels:
    """Return the cosines of both kinds of pairs, and the threshold between them."""
    found = score_histogram(scores)
    low, high = found["range"]
    edges = np.linspace(low, high, BINS + 1)
    figure, axes = _empty_figure()
    for kind, colour, label in (
        ("different", DIFFERENT, "two people"), ("same", SAME, "one person"),
    ):  # fmt: skip
        axes.stairs(found[kind], edges, fill=True, alpha=0.45, color=colour, label=label)
        axes.stairs(found[kind], edges, color=colour, linewidth=1.5)
    label = f"threshold {scores.threshold:.3f}"
    axes.axvline(scores.threshold, color=THRESHOLD, linestyle="--", label=label)
    axes.set_xlabel("cosine")
    axes.set_ylabel("pairs")
    axes.set_title(f"{name}: cosines of pairs")
    axes.yaxis.get_major_locator().set_params(integer=True)
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize="small")
    return _pixels(figure)


@cache
def _figure() -> Any:
    """Return the one figure that all are drawn on, in turn.

    A figure, its canvas and its axes refer to each other, so that a new one for each drawing would
    keep its 1.3 MB of pixels until Python looks for cycles among all objects: hundreds of drawings.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.4, 3.3), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _empty_figure() -> tuple[Any, Any]:
    figure = _figure()
    figure.clear()
    return figure, figure.add_subplot()


def _pixels(figure: Any) -> Pixels:
    figure.canvas.draw()
    return np.ascontiguousarray(np.asarray(figure.canvas.buffer_rgba())[..., :3])
