"""MLflow, an extra: `log.loggers: [tensorboard, mlflow]`.

`MLFLOW_TRACKING_URI` and `MLFLOW_EXPERIMENT_NAME` decide where a run goes; without the first, into
files of the run folder.
"""

import os
import time
from collections.abc import Mapping
from typing import Any

from recognition.telemetry.logger import Logger, Pixels, RunInfo

_ID = ".mlflow_id"  # file of the run folder by which a run that goes on is found
_AT_ONCE = 100  # parameters of a request, which MLflow limits
_LONGEST = 500  # characters of one


class MlflowLog(Logger):
    """A run of MLflow: parameters, metrics, pictures and texts. It knows no histograms."""

    def __init__(self) -> None:
        super().__init__("mlflow")
        self._client: Any = None
        self._run = ""

    def start(self, run: RunInfo) -> None:
        """See `Logger`."""
        from mlflow import MlflowClient
        from mlflow.entities import Param

        uri = os.environ.get("MLFLOW_TRACKING_URI")
        if uri is None:
            uri = (run.folder / "mlflow").absolute().as_uri()
            # Newer versions refuse files, for which their replacement needs a database's packages.
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        client = MlflowClient(tracking_uri=uri)
        file = run.folder / _ID
        if run.first_step and file.exists():
            self._run = file.read_text()
            client.update_run(self._run, status="RUNNING")
        else:
            name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "partialfc")
            found = client.get_experiment_by_name(name)
            experiment = client.create_experiment(name) if found is None else found.experiment_id
            self._run = client.create_run(experiment, run_name=run.folder.name).info.run_id
            file.write_text(self._run)
            params = [Param(name, str(value)[:_LONGEST]) for name, value in run.settings.items()]
            for first in range(0, len(params), _AT_ONCE):
                client.log_batch(self._run, params=params[first : first + _AT_ONCE])
        self._client = client

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """See `Logger`."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        # The file of a metric cannot be a folder too, of `train/loss/dataset`.
        names = {name: "/".join(_parts(name)) for name in values}
        metrics = [Metric(names[name], value, now, step) for name, value in values.items()]
        self._client.log_batch(self._run, metrics=metrics)

    def image(self, step: int, name: str, pixels: Pixels) -> None:
        """See `Logger`."""
        self._client.log_image(self._run, pixels, f"{name}/step_{step:08d}.png")

    def text(self, name: str, text: str) -> None:
        """See `Logger`."""
        self._client.log_text(self._run, text, f"{name}.txt")

    def finish(self, figures: Mapping[str, float], *, failed: bool) -> None:
        """See `Logger`."""
        self._client.set_terminated(self._run, "FAILED" if failed else "FINISHED")


def _parts(name: str) -> tuple[str, str]:
    """Return a figure's event and its name, that without a slash."""
    event, _, rest = name.partition("/")
    return event, rest.replace("/", ".")
