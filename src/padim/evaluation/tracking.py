"""A benchmark's rows for tools that keep the results of many."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from padim.errors import PadimError
from padim.evaluation.run_folder import Results
from padim.files import plain_text
from padim.metrics.table import METRICS

_FORBIDDEN = re.compile(r"[^\w.\- ]")  # by MLflow in names, on any of its servers


def metrics_of(results: Results) -> Iterator[tuple[str, str, float]]:
    """Category, metric and value of every metric that there is, and of their means."""
    for line in results.lines():
        for metric in METRICS:
            value = line.metrics[metric]
            if value is not None:
                yield f"mean_{line.group}" if line.group else line.name, metric, value


def send_to_mlflow(results: Results, uri: str) -> None:
    """Log a benchmark as one run of MLflow: settings as parameters, metrics by category.

    Raises:
        PadimError: It does not take them.
    """
    import mlflow
    from mlflow.exceptions import MlflowException

    settings = results.settings
    if urlsplit(uri).scheme in ("", "file"):
        # Later releases refuse folders, which still work, unless told so.
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
    try:
        mlflow.set_tracking_uri(uri)
        mlflow.set_experiment("padim")
        with mlflow.start_run(run_name=f"{settings['backbone']} {settings['recipe']}"):
            mlflow.log_params({key: value for key, value in settings.items() if key != "versions"})
            mlflow.log_params({f"version.{k}": v for k, v in settings["versions"].items()})
            mlflow.log_metrics(
                {
                    f"{_FORBIDDEN.sub('_', name)}/{metric}": value
                    for name, metric, value in metrics_of(results)
                }
            )
    except MlflowException as error:
        raise PadimError(
            f"MLflow at {uri} did not take the results ({error.message}). They are in the output "
            "folder; check the address."
        ) from error


def write_tensorboard(results: Results, folder: Path) -> None:
    """Write a benchmark's metrics as scalars for TensorBoard.

    Raises:
        PadimError: It cannot be written.
    """
    from torch.utils.tensorboard import SummaryWriter

    try:
        with SummaryWriter(str(folder)) as writer:
            for name, metric, value in metrics_of(results):
                writer.add_scalar(f"{metric}/{plain_text(name)}", value, 0)
    except OSError as error:
        raise PadimError(
            f"{folder} did not take the results ({error.strerror or error}). They are in the "
            "output folder; name another for TensorBoard."
        ) from error
