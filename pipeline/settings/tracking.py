"""Where the metrics of training go besides `metrics.jsonl`, and which steps are profiled."""

import importlib.util
from typing import Literal

from pydantic import Field

from pipeline.common.errors import UsageError
from pipeline.settings.base import Section


class Tracking(Section):
    """Trackers. `tracking=[tensorboard,wandb]` is short for `tracking.to`."""

    to: list[Literal["tensorboard", "wandb", "mlflow", "trackio"]] = ["tensorboard"]
    """Which trackers get every step's metrics; none of them replaces metrics.jsonl. All but tensorboard are packages of their
    own (docs/tracking.md)."""
    required: bool = False
    """true: a tracker that cannot be opened at the start ends the run. false: it is reported and left out."""
    project: str = Field("etr", min_length=1)
    """Project (MLflow: experiment) under which wandb, mlflow and trackio list the run."""


class Profile(Section):
    """Profiling of single steps."""

    steps: list[int] = []
    """RL steps of which rank 0 writes a trace of torch's profiler to `profile/`, and on GPUs a snapshot of the memory."""


def check_packages(tracking: Tracking) -> None:
    """Raises `UsageError` if a tracker's package is not installed here."""
    missing = [name for name in tracking.to if importlib.util.find_spec(name) is None]
    if missing:
        left = ",".join(name for name in tracking.to if name not in missing)
        raise UsageError(
            f"tracking={','.join(tracking.to)}: the package {missing[0]} is not installed. Install it into the environment"
            f" (`.venv/bin/python -m pip install {' '.join(missing)}`), or give tracking={left or '[]'}."
        )
