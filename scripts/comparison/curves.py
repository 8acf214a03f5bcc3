"""The curves of a comparison: mean cosine between samples and their target centres, per step.

The Partial FC paper shows with it what sampling does to training ("average cosine distance", arXiv
2010.05222): how close samples are to their centres, before any margin.
"""

import math
import shutil
import statistics
from collections.abc import Sequence
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from scripts.comparison.report import by_method
from scripts.comparison.runs import RunResult, flat


def require_matplotlib() -> None:
    """Raise `ModuleNotFoundError` that names the extra unless matplotlib is installed."""
    try:
        import matplotlib  # noqa: F401  # only whether it is there
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "the curves are drawn by matplotlib, which is not installed: pip install -e '.[plots]'"
        ) from error


def draw_curves(file: Path, results: Sequence[RunResult]) -> None:
    """Draw one line per method, the mean over its seeds, into a PNG."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.add_subplot()
    methods = by_method(results)
    colours = colormaps["turbo"]
    for position, (method, runs) in enumerate(methods.items()):
        steps, cosines = mean_curve(runs)
        # Neighbours in the list differ in dash and in colour, as many lines are close together.
        axes.plot(
            steps, cosines, label=method, linewidth=1.4, linestyle=("-", "--", ":")[position % 3],
            color=colours(0.05 + 0.9 * position / max(len(methods) - 1, 1)),
        )  # fmt: skip
    axes.set_xlabel("step")
    axes.set_ylabel("mean cosine to the target centre")
    axes.grid(alpha=0.3)
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize="small", frameon=False)
    figure.savefig(file, dpi=130)


def mean_curve(runs: Sequence[RunResult]) -> tuple[list[int], list[float]]:
    """Return steps and the mean cosine over the runs at each; all runs have the same steps."""
    steps = [step for step, _ in runs[0].curve]
    assert all([step for step, _ in run.curve] == steps for run in runs), "one method, one schedule"
    values = zip(*([cosine for _, cosine in run.curve] for run in runs), strict=True)
    return steps, [statistics.mean(at_step) for at_step in values]


def write_tensorboard(folder: Path, results: Sequence[RunResult]) -> None:
    """Write each run's curve and, as hyperparameters, its head and its final figures.

    `folder` belongs to the comparison; its old content is deleted.
    """
    if folder.exists():
        shutil.rmtree(folder)
    for result in results:
        with SummaryWriter(str(folder / result.method / f"seed_{result.seed}")) as board:
            for step, cosine in result.curve:
                board.add_scalar("compare/cosine_positive", cosine, step)
            # With another name it would be a second run on the dashboard, apart from its curve.
            board.add_hparams(
                hyperparameters(result),
                final_figures(result),
                run_name=".",
                global_step=result.steps,
            )


def hyperparameters(result: RunResult) -> dict[str, bool | str | float | int]:
    """Return method, seed and every value of the section `head`, by dotted names."""
    head = flat(result.head).items()
    values = {key: value for key, value in head if isinstance(value, bool | str | float | int)}
    return {"method": result.method, "seed": result.seed, **values}


def final_figures(result: RunResult) -> dict[str, float]:
    """Return the figures that the dashboard's table of runs shows."""
    figures = {
        "final/cosine_positive": result.curve[-1][1],
        "final/loss": result.loss,
        "final/step_ms": 1000 * result.step_seconds,
        "final/memory_mib": 1024 * result.memory_gib,
        "final/accuracy_mean": statistics.mean(s.accuracy for s in result.sets.values()),
    }
    if result.selection_seconds is not None:
        figures["final/selection_ms"] = 1000 * result.selection_seconds
    for name, one in result.sets.items():
        figures[f"final/{name}/accuracy"] = one.accuracy
        for rate, tar in one.tar_at_far.items():
            if tar is not None:
                figures[f"final/{name}/tar_at_far_{rate}"] = tar
    return {name: value for name, value in figures.items() if math.isfinite(value)}
