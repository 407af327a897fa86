"""Reads the files of a finished or interrupted run, and lists what is missing."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.common.errors import InputError
from pipeline.common.files import read_json, read_jsonl
from pipeline.report.audit import Audit

Row = dict[str, Any]


@dataclass(kw_only=True)
class RunData:
    """Everything that the report shows."""

    name: str
    metrics: list[Row] = field(default_factory=list)
    """RL, one row a step, by rising step."""
    sft: list[Row] = field(default_factory=list)
    samples: list[Row] = field(default_factory=list)
    """Rollouts of training."""
    evaluations: dict[str, Row] = field(default_factory=dict)
    """`before`, `after` and others -> what evaluate wrote."""
    evaluation_samples: dict[str, list[Row]] = field(default_factory=dict)
    stage_seconds: dict[str, float] = field(default_factory=dict)
    config: str = ""
    """As text: YAML."""
    environment: Row = field(default_factory=dict)
    audit: Audit | None = None
    """Set by the stage, which can grade."""
    missing: list[str] = field(default_factory=list)
    """One sentence for each thing that is absent or unreadable."""


def read_run(root: Path, command: str = "bash run.sh stage=all model=tiny") -> RunData:
    """Gathers a run's files.

    Args:
        root: `runs/<name>`.
        command: the command that makes such a run, for the error message.

    Raises:
        InputError: there is nothing to report on yet.
    """
    data = RunData(name=root.name)
    if not root.is_dir():
        raise InputError(f"There is no run at {root}. Make one: {command}")
    data.metrics = _steps(_rows(root / "metrics.jsonl", "training metrics: the RL stage has not finished a step", data))
    data.samples = _rows(root / "samples.jsonl", "sampled rollouts of the training", data)
    data.sft = _rows(root / "sft" / "metrics.jsonl", None, data)
    folder = root / "evaluate"
    for path in sorted(folder.glob("*.json")):
        entry = _object(path, data)
        if path.stem != "manifest" and isinstance(entry.get("sets"), dict):
            data.evaluations[path.stem] = entry
    for when in ("before", "after"):
        if when not in data.evaluations:
            data.missing.append(f"accuracy {when} training (stage=evaluate evaluate.checkpoint={when})")
    for path in sorted(folder.glob("*.samples.jsonl")):
        data.evaluation_samples[path.name.removesuffix(".samples.jsonl")] = _rows(path, None, data)
    if not (data.metrics or data.evaluations or data.sft):
        raise InputError(f"{root} holds nothing to report on: no metrics.jsonl and no evaluation. Run: {command}")
    for path in sorted(root.glob("*/manifest.json")):
        seconds = _object(path, data).get("seconds")
        if isinstance(seconds, int | float):
            data.stage_seconds[path.parent.name] = float(seconds)
    if (root / "config.yaml").exists():
        data.config = (root / "config.yaml").read_text("utf-8", "replace")
    else:
        data.missing.append("the configuration (config.yaml)")
    if (root / "environment.json").exists():
        data.environment = _object(root / "environment.json", data)
    else:
        data.missing.append("the environment (environment.json)")
    return data


def _rows(path: Path, what: str | None, data: RunData) -> list[Row]:
    """Rows up to the first bad line, which is noted under `missing`; so is `what` if there is no file."""
    if not path.exists():
        if what:
            data.missing.append(f"{what} ({path.name})")
        return []
    rows: list[Row] = []
    try:
        rows.extend(read_jsonl(path))
    except InputError as error:
        data.missing.append(f"all rows after a damaged line: {error}")
    return rows


def _object(path: Path, data: RunData) -> Row:
    try:
        value = read_json(path)
    except InputError as error:
        data.missing.append(str(error))
        return {}
    return value if isinstance(value, dict) else {}


def _steps(rows: list[Row]) -> list[Row]:
    """One row a step, the last written, by rising step."""
    found = {row["step"]: row for row in rows if isinstance(row.get("step"), int)}
    return [found[step] for step in sorted(found)]
