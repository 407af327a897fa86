"""Drift of how paid answers are given. A policy that learns to be paid for something other than solving shows it here first:
answers move out of their boxes, into prose, or into other forms of the gold.

The first steps of a run are compared with its newest ones. Either side has at least `STEPS` steps and `ANSWERS` paid answers,
so that a share of a few answers is no drift; a share that is `LIMIT` higher or lower is one.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.tracking.values import number

STEPS = 10
ANSWERS = 200
LIMIT = 0.1
PAID = "verify/paid"
"""Number of a step's paid answers."""
SHARES = {
    "verify/paid_unboxed": "given without a box",
    "verify/paid_prose": "read from prose",
    "verify/paid_other_form": "in another form than the gold's",
}
"""Shares of the paid answers -> what they are."""


@dataclass(frozen=True)
class Part:
    """Some steps of a run and the share of their paid answers."""

    first: int
    last: int
    share: float

    def __str__(self) -> str:
        return f"{100 * self.share:.1f}% in steps {self.first} to {self.last}"


@dataclass(frozen=True)
class Drift:
    """One share that has changed."""

    name: str
    early: Part
    late: Part

    def __str__(self) -> str:
        return f"{self.name}: of the paid answers, {self.early} were {SHARES[self.name]}, and {self.late}"


Step = tuple[int, float, dict[str, float]]
"""(step, number of paid answers, shares by name)."""


class DriftWatch:
    """Sees the steps of a run in order, and reports each share that drifts once."""

    def __init__(self, seen: Iterable[Mapping[str, Any]] = ()) -> None:
        """`seen`: rows of metrics.jsonl of the run's earlier steps, whose drifts have been reported."""
        self._early: list[Step] = []
        self._late: list[Step] = []
        self._reported: set[str] = set()
        for row in seen:
            self.see(int(row["step"]), row)

    def see(self, step: int, metrics: Mapping[str, Any]) -> list[Drift]:
        """The shares that this step shows to have drifted, mostly none. Steps without paid answers say nothing."""
        paid = number(metrics.get(PAID))
        shares = {name: value for name in SHARES if (value := number(metrics.get(name))) is not None}
        if not paid or len(shares) < len(SHARES):
            return []
        if not _enough(self._early):
            self._early.append((step, paid, shares))
            return []
        self._late.append((step, paid, shares))
        while _enough(self._late[1:]):
            self._late.pop(0)
        if not _enough(self._late):
            return []
        found = [Drift(name, _part(self._early, name), _part(self._late, name)) for name in SHARES]
        found = [
            drift
            for drift in found
            if drift.name not in self._reported and abs(drift.late.share - drift.early.share) > LIMIT
        ]
        self._reported |= {drift.name for drift in found}
        return found


def drifts(rows: Iterable[Mapping[str, Any]]) -> list[Drift]:
    """The drifts in rows of metrics.jsonl."""
    watch = DriftWatch()
    return [drift for row in rows for drift in watch.see(int(row["step"]), row)]


def _enough(steps: list[Step]) -> bool:
    return len(steps) >= STEPS and sum(paid for _, paid, _ in steps) >= ANSWERS


def _part(steps: list[Step], name: str) -> Part:
    paid = sum(count for _, count, _ in steps)
    return Part(steps[0][0], steps[-1][0], sum(count * shares[name] for _, count, shares in steps) / paid)
