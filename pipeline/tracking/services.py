"""Trackers beside the run's own files: Weights & Biases, MLflow, trackio. Each gets every scalar of metrics.jsonl.

Their packages are optional and imported when a run starts. A service that fails, at the start or later, costs its own curves,
never the training: it is reported once and left out from then on. With `tracking.required` one that cannot be opened at the
start ends the run.
"""

import hashlib
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from pipeline.common.errors import InputError
from pipeline.common.files import write_text
from pipeline.tracking.values import number

Scalars = dict[str, float]
WANDB_WAIT = "300"
"""Seconds in which wandb's own process must start. Its default, 30, is too short on a machine that is busy loading a model."""


class Service(Protocol):
    """One run in one tracker."""

    def log(self, step: int, scalars: Scalars) -> None:
        """Sends the scalars of one step."""
        ...

    def close(self) -> None:
        """Sends what is left, and ends the run."""
        ...


class Wandb:
    """Weights & Biases. Its environment variables hold (WANDB_MODE=offline, WANDB_ENTITY, ...)."""

    def __init__(self, root: Path, project: str, config: Mapping[str, Any]) -> None:
        if "WANDB_X_SERVICE_WAIT" not in os.environ:
            os.environ.setdefault("WANDB__SERVICE_WAIT", WANDB_WAIT)
        import wandb

        root.mkdir(parents=True, exist_ok=True)
        self._wandb = wandb
        self._run = wandb.init(
            project=project, name=root.name, id=stable_id(root), resume="allow", dir=str(root), config=dict(config)
        )

    def log(self, step: int, scalars: Scalars) -> None:
        self._run.log(scalars, step=step)

    def close(self) -> None:
        self._run.finish()
        self._wandb.teardown()  # `finish` returns before wandb's own process has written its file; this waits for that process


class Mlflow:
    """MLflow: the server of MLFLOW_TRACKING_URI, or the folder `mlruns` of the run. Of a name, the characters that MLflow
    does not allow become `_`: `reward/pass@1` is `reward/pass_1` there."""

    def __init__(self, root: Path, project: str, config: Mapping[str, Any]) -> None:
        import mlflow

        if "MLFLOW_TRACKING_URI" not in os.environ:
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # MLflow 3 refuses its file store without it
            mlflow.set_tracking_uri((root / "mlruns").absolute().as_uri())
        self._mlflow = mlflow
        mlflow.set_experiment(project)
        known = root / "mlflow_run_id"
        if known.exists():
            mlflow.start_run(run_id=known.read_text("utf-8").strip())
        else:
            run = mlflow.start_run(run_name=root.name)
            write_text(known, run.info.run_id)
            mlflow.log_dict(dict(config), "config.json")

    def log(self, step: int, scalars: Scalars) -> None:
        self._mlflow.log_metrics({mlflow_name(name): value for name, value in scalars.items()}, step=step)

    def close(self) -> None:
        self._mlflow.end_run()


class Trackio:
    """trackio: a local data base that `trackio show` draws; its environment variables hold."""

    def __init__(self, root: Path, project: str, config: Mapping[str, Any]) -> None:
        import trackio

        self._trackio = trackio
        trackio.init(project=project, name=root.name, resume="allow", config=dict(config))

    def log(self, step: int, scalars: Scalars) -> None:
        self._trackio.log(scalars, step=step)

    def close(self) -> None:
        self._trackio.finish()


SERVICES: dict[str, Callable[[Path, str, Mapping[str, Any]], Service]] = {
    "wandb": Wandb,
    "mlflow": Mlflow,
    "trackio": Trackio,
}
"""By the name in `tracking.to`. Each is made of the run's folder, the project and the resolved settings."""


class Services:
    """All services of a run; empty on ranks that do not write."""

    def __init__(self, services: dict[str, Service] | None = None, warn: Callable[[str], None] = print) -> None:
        self._open, self._warn = dict(services or {}), warn

    @classmethod
    def start(
        cls,
        names: Sequence[str],
        root: Path,
        project: str,
        config: Mapping[str, Any],
        warn: Callable[[str], None] = print,
        required: bool = False,
    ) -> "Services":
        """Opens those of `names` that are services (tensorboard writes files of its own, `events.py`).

        One that cannot be opened (no key, no server, a machine too busy to start it) is reported and left out: every number is
        in metrics.jsonl.

        Raises:
            InputError: with `required`, one cannot be opened. Those that were opened are closed.
        """
        services = cls({}, warn)
        for name in (name for name in names if name in SERVICES):
            try:
                services._open[name] = SERVICES[name](root, project, config)
            except Exception as error:
                if required:
                    services.close()
                    raise InputError(
                        f"tracking={name} cannot be opened, and tracking.required=true: {_reason(error)}. Correct it, or give"
                        " tracking.required=false to train without it."
                    ) from error
                warn(f"WARNING: tracking={name} is left out, because it cannot be opened: {_reason(error)}")
        return services

    def log(self, step: int, row: Mapping[str, Any]) -> None:
        """Sends the finite numbers of a row of metrics.jsonl."""
        values = {name: number(value) for name, value in row.items() if name != "step"}
        scalars = {name: value for name, value in values.items() if value is not None}
        self._each(lambda service: service.log(step, scalars))

    def close(self) -> None:
        self._each(lambda service: service.close())
        self._open = {}

    def _each(self, action: Callable[[Service], None]) -> None:
        for name, service in list(self._open.items()):
            try:
                action(service)
            except Exception as error:  # of a network, a server, a package: none is a reason to end days of training
                del self._open[name]
                self._warn(f"WARNING: tracking={name} is left out from now on: {_reason(error)}")


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def stable_id(root: Path) -> str:
    """The same for each start of a run, so that a continued run goes on in its old curves."""
    return f"{re.sub(r'[^A-Za-z0-9-]', '-', root.name)[:40]}-{hashlib.sha256(str(root.absolute()).encode()).hexdigest()[:8]}"


def mlflow_name(name: str) -> str:
    return re.sub(r"[^\w\-. /:]", "_", name)
