"""The figures of one run of a comparison, read from what the run left."""

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.common.files import read_json, read_jsonl

FINAL, AREA, ENTROPY, KL = "final_accuracy", "area", "entropy", "kl"
TITLES = {
    FINAL: "final accuracy",
    AREA: "area under the training curve",
    ENTROPY: "final entropy",
    KL: "KL moved, summed over the run",
}
"""What is compared, and how it is called."""
LAST = 0.2
"""Share of the steps at the end over which final entropy is averaged."""
COLLAPSE = 0.5
"""A run has collapsed if its final accuracy is below this share of what it started with, or is not a number."""


@dataclass(frozen=True)
class Figures:
    """One arm at one seed."""

    final_accuracy: float
    """Mean avg@k over the evaluation sets after training."""
    before_accuracy: float
    """The same before training."""
    area: float
    """Mean of `reward/pass@1` over the steps: the area under the training curve, per step."""
    entropy: float
    """Mean of `policy/entropy` over the last fifth of the steps."""
    kl: float
    """Sum of `policy/kl_old_k3` over the steps."""
    collapsed: bool
    curve: list[float]
    """`reward/pass@1` of each step; NaN if a step has none."""
    clipped: float
    """Mean share of response tokens that the bounds cut."""
    static_clipped: float
    """Mean share of live tokens (advantage not 0) that the static bounds would cut: whether the region binds at all."""
    differs: float
    """Mean share of live tokens at which the bounds decide otherwise than the static ones."""

    def plain(self) -> dict[str, Any]:
        """For JSON: NaN becomes None."""
        return {name: _plain(value) for name, value in asdict(self).items()}


def read_figures(root: Path, before: dict[str, Any]) -> Figures:
    """`root` is the folder of a run that has finished `rl` and `evaluate`; `before` the evaluation of the shared base.

    Raises:
        InputError: a file is missing or damaged.
    """
    rows = list(read_jsonl(root / "metrics.jsonl"))
    after = read_json(root / "evaluate" / "after.json")
    final, started = accuracy_of(after), accuracy_of(before)
    curve = [_number(row.get("reward/pass@1")) for row in rows]
    last = rows[-max(1, round(LAST * len(rows))) :]
    return Figures(
        final_accuracy=final,
        before_accuracy=started,
        area=_mean(curve),
        entropy=_mean([_number(row.get("policy/entropy")) for row in last]),
        kl=sum(x for row in rows if not math.isnan(x := _number(row.get("policy/kl_old_k3")))),
        collapsed=not final >= COLLAPSE * started,
        curve=curve,
        clipped=_mean([_number(row.get("clip/low")) + _number(row.get("clip/high")) for row in rows]),
        static_clipped=_mean([_of_live(row, "clip/static_low", "clip/static_high") for row in rows]),
        differs=_mean([_of_live(row, "clip/differs_from_static") for row in rows]),
    )


def accuracy_of(evaluation: dict[str, Any]) -> float:
    """Mean avg@k over the sets of an evaluate/*.json."""
    found = [
        float(value)
        for entry in evaluation["sets"].values()
        for name, value in entry.items()
        if name.startswith("avg@") and not name.endswith("_ci")
    ]
    return _mean(found)


def _of_live(row: dict[str, Any], *names: str) -> float:
    """A sum of shares of response tokens, as a share of those whose advantage is not 0."""
    live = _number(row.get("policy/live_tokens"))
    return sum(_number(row.get(name)) for name in names) / live if live > 0 else math.nan


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else math.nan


def _mean(values: list[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value
