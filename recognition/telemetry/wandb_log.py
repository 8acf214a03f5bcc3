"""Weights & Biases, an extra: `log.loggers: [tensorboard, wandb]`.

`WANDB_MODE`, `WANDB_PROJECT` and the other variables of its own decide where a run goes.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from recognition.telemetry.logger import Histogram, Logger, Pixels, RunInfo

_ID = ".wandb_id"  # file of the run folder by which a run that goes on is found


class WandbLog(Logger):
    """A run of Weights & Biases, its files in the run folder."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self._run: Any = None

    def start(self, run: RunInfo) -> None:
        """See `Logger`."""
        import wandb

        file = run.folder / _ID
        known = file.read_text() if run.first_step and file.exists() else None
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "partialfc"),
            name=run.folder.name,
            id=known,
            resume="allow",
            dir=run.folder,
            config=dict(run.settings),
            # What is printed has secrets that the log has not, and code is nobody's business.
            settings=wandb.Settings(
                silent=True, console="off", disable_git=True, disable_code=True, init_timeout=60
            ),
        )
        file.write_text(self._run.id)
        # A run that goes on from a checkpoint logs some steps once more.
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """See `Logger`."""
        self._run.log({"step": step, **values})

    def histograms(self, step: int, values: Mapping[str, Histogram]) -> None:
        """See `Logger`."""
        import wandb

        shown = {
            name: wandb.Histogram(np_histogram=(np.array(h.counts), np.array(h.edges)))
            for name, h in values.items()
        }
        self._run.log({"step": step, **shown})

    def image(self, step: int, name: str, pixels: Pixels) -> None:
        """See `Logger`."""
        import wandb

        self._run.log({"step": step, name: wandb.Image(pixels)})

    def text(self, name: str, text: str) -> None:
        """See `Logger`."""
        file = Path(self._run.dir) / f"{name.replace('/', '_')}.txt"
        file.write_text(text)
        self._run.save(str(file), base_path=self._run.dir, policy="now")

    def finish(self, figures: Mapping[str, float], *, failed: bool) -> None:
        """See `Logger`."""
        self._run.summary.update(dict(figures))
        self._run.finish(exit_code=int(failed))
