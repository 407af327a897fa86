"""A benchmark beside an earlier run of itself: `bench.compare=<its JSON>`.

Every benchmark returns `samples`: for each row the times of its repeats, where less is better. A row counts as slower or
faster only if the two runs' ranges (min..max) do not overlap; everything else is within the noise.
"""

import json
import math
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rich.table import Table

from pipeline.common.errors import InputError, UsageError

Samples = dict[str, list[float]]
"""Times by row, one for each repeat."""
Verdict = Literal["slower", "faster", "within the noise"]

HERE = ("host", "platform", "processor", "cpus", "devices", "versions", "revision")
"""What a record says about where it was measured (`pipeline.run.summary.environment`)."""


@dataclass(frozen=True)
class Row:
    """One row of both runs."""

    name: str
    earlier: list[float]
    now: list[float]

    @property
    def ratio(self) -> float:
        """Median now over median then; above 1 is slower. Infinite where the earlier one is 0."""
        before = statistics.median(self.earlier)
        return statistics.median(self.now) / before if before else float("inf")

    @property
    def verdict(self) -> Verdict:
        """Slower or faster if the ranges do not overlap. Ranges that touch overlap."""
        if min(self.now) > max(self.earlier):
            return "slower"
        return "faster" if max(self.now) < min(self.earlier) else "within the noise"

    @property
    def chance(self) -> float:
        """Probability that two runs of equal speed are called slower: all of one side above all of the other."""
        return 1 / math.comb(len(self.now) + len(self.earlier), len(self.now))


def load(path: str, what: str) -> dict[str, Any]:
    """An earlier record of the benchmark `what`.

    Raises:
        InputError: no such file, or it is not a record of a benchmark.
        UsageError: it is a record of another benchmark.
    """
    try:
        record = json.loads(Path(path).read_text("utf-8"))
    except OSError as error:
        raise InputError(
            f"bench.compare={path} cannot be read: {error.strerror}. Name an earlier run's JSON."
        ) from error
    except ValueError as error:
        raise InputError(f"bench.compare={path} is not JSON: {error}") from error
    if not isinstance(record, dict) or not _are_samples(record.get("samples")):
        raise InputError(f"bench.compare={path} holds no samples. Write it again: bash run.sh stage=bench what={what}")
    if record.get("what") != what:
        raise UsageError(f"bench.compare={path} was measured with what={record.get('what')}, not what={what}.")
    return record


def _are_samples(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(times, list) and times and all(isinstance(t, int | float) for t in times) for times in value.values()
    )


def compare(earlier: Samples, now: Samples) -> list[Row]:
    """The rows that both runs have, in the order of this one."""
    return [Row(name, earlier[name], times) for name, times in now.items() if name in earlier]


def differences(earlier: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What else differs between two records: machine, versions, revision, settings, and rows that only one has."""
    before, after = _flat(earlier), _flat(now)
    lines = [
        f"{key}: {before.get(key)} then, {after.get(key)} now"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key)
    ]
    lines += [f"row {name}: only in the earlier run" for name in earlier["samples"] if name not in now["samples"]]
    lines += [f"row {name}: only in this run" for name in now["samples"] if name not in earlier["samples"]]
    return lines


def _flat(record: dict[str, Any]) -> dict[str, Any]:
    """The conditions of a record as dotted keys."""
    flat: dict[str, Any] = {}

    def walk(value: Any, prefix: str) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                walk(inner, f"{prefix}.{key}" if prefix else key)
        else:
            flat[prefix] = value

    conditions = record.get("environment") or {}
    walk({key: conditions[key] for key in HERE if key in conditions}, "")
    walk(record.get("settings") or {}, "")
    return flat


def table(rows: list[Row]) -> Table:
    """The comparison for people."""
    shown = Table(title="Beside the earlier run (now / then, medians; ranges are min..max)")
    shown.add_column("row", no_wrap=True)
    for heading in ("then", "now", "ratio"):
        shown.add_column(heading, justify="right")
    shown.add_column("")
    for row in rows:
        shown.add_row(row.name, _range(row.earlier), _range(row.now), f"{row.ratio:.3f}", row.verdict)
    return shown


def _range(times: list[float]) -> str:
    return f"{statistics.median(times):.4g} ({min(times):.4g}..{max(times):.4g})"
