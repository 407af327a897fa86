"""From the figures of all runs to what can be said: differences, power, and a sentence for each control."""

import math
from dataclasses import asdict, dataclass
from typing import Any

from pipeline.compare.results import AREA, ENTROPY, FINAL, KL, TITLES, Figures
from pipeline.compare.statistics import Difference, compare, holm, seeds_needed

COMPARED = (FINAL, AREA, ENTROPY, KL)
Table = dict[str, dict[int, Figures]]
"""Arm -> seed -> figures, of the runs that finished."""


@dataclass(frozen=True)
class Comparison:
    """The subject against one control, in one figure."""

    subject: str
    control: str
    figure: str
    difference: Difference
    adjusted_p: float
    """Sign test, by Holm over the controls of this figure."""
    needed: int | None
    """Seeds that would find `compare.effect`; for final accuracy only."""


def comparisons_of(table: Table, subject: str, effect: float) -> list[Comparison]:
    """The subject (minus) every other arm, over the seeds that both finished."""
    controls = [arm for arm in table if arm != subject]
    found: list[Comparison] = []
    for figure in COMPARED:
        rows = []
        for control in controls:
            pairs = paired(table, subject, control, figure)
            if pairs:
                rows.append((control, compare([a - b for a, b in pairs], len(controls))))
        adjusted = holm([difference.sign_p for _, difference in rows])
        for (control, difference), p in zip(rows, adjusted, strict=True):
            needed = seeds_needed(difference.deviation, effect, len(controls)) if figure == FINAL else None
            found.append(Comparison(subject, control, figure, difference, p, needed))
    return found


def paired(table: Table, subject: str, control: str, figure: str) -> list[tuple[float, float]]:
    """(subject, control) of each seed that both have, without those where either is not a number."""
    both = [
        (getattr(table[subject][seed], figure), getattr(table[control][seed], figure))
        for seed in sorted(table[subject].keys() & table[control].keys())
    ]
    return [(a, b) for a, b in both if not (math.isnan(a) or math.isnan(b))]


def sentence(comparison: Comparison, effect: float) -> str:
    """What the interval of one comparison says, and what it does not."""
    d, title = comparison.difference, TITLES[comparison.figure]
    interval = f"{d.mean:+.3f} [{d.low:+.3f}, {d.high:+.3f}] over {d.seeds} seeds"
    names = f"{comparison.subject} against {comparison.control}: {title}"
    if d.verdict == "same":
        return f"{names} is the same at every seed."
    if d.verdict in ("higher", "lower"):
        return f"{names} is {d.verdict}, {interval}."
    text = f"{names} shows no difference, {interval}"
    if comparison.needed is None:
        return f"{text}."
    if max(abs(d.low), abs(d.high)) < effect:
        return f"{text}; a difference of {effect:g} is ruled out."
    return f"{text}; a difference of {effect:g} would need about {comparison.needed} seeds."


def summary_of(
    table: Table, planned: dict[str, str], subject: str, effect: float, failed: dict[str, str]
) -> dict[str, Any]:
    """Everything for `compare.json`.

    Args:
        planned: arm -> the settings that make it.
        effect: difference of final accuracy that matters.
        failed: run -> why it did not finish.
    """
    found = comparisons_of(table, subject, effect)
    arms = {
        arm: {
            "settings": planned[arm],
            "seeds": sorted(runs),
            "collapsed": _share([run.collapsed for run in runs.values()]),
            **{
                name: _mean([getattr(run, name) for run in runs.values()])
                for name in (*COMPARED, "clipped", "static_clipped", "differs")
            },
            "runs": {str(seed): run.plain() for seed, run in sorted(runs.items())},
        }
        for arm, runs in table.items()
    }
    return {
        "subject": subject,
        "effect": effect,
        "verdict": [sentence(c, effect) for c in found if c.figure == FINAL],
        "comparisons": [_plain(c) for c in found],
        "arms": arms,
        "failed": failed,
    }


def _plain(comparison: Comparison) -> dict[str, Any]:
    plain = asdict(comparison) | {"verdict": comparison.difference.verdict}
    if math.isnan(plain["difference"]["deviation"]):
        plain["difference"]["deviation"] = None
    return plain


def _mean(values: list[float]) -> float | None:
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else None


def _share(values: list[bool]) -> float | None:
    return sum(values) / len(values) if values else None
