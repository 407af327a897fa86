"""Accuracy before and after training: a table with intervals, and a chart of the same figures."""

from dataclasses import dataclass
from typing import Any

from pipeline.report.axes import Form, written
from pipeline.report.read import RunData
from pipeline.report.sections import figure
from pipeline.report.text import escape
from pipeline.tracking.statistics import is_accuracy
from pipeline.tracking.values import number

WHENS = ("before", "after")
WIDTH, ROW, LEFT, RIGHT, TOP = 560, 42, 64, 16, 6
OTHERS: tuple[tuple[str, str, Form], ...] = (
    ("response_tokens", "response length, tokens", "number"),
    ("truncated", "truncated", "share"),
    ("direct_share", "only the final box", "share"),
    ("judged", "right by the judge alone", "share"),
)
"""Figures of a set beside its accuracy."""


@dataclass(frozen=True)
class Measured:
    """One figure and its 95% interval."""

    value: float
    low: float
    high: float


def measured(entry: dict[str, Any], name: str) -> Measured | None:
    """A figure of an evaluation set's entry; None if it is missing or not a number."""
    value = number(entry.get(name))
    if value is None:
        return None
    ends = entry.get(f"{name}_ci")
    low, high = ends if isinstance(ends, list) and len(ends) == 2 else (value, value)
    return Measured(value, number(low) or 0.0, value if number(high) is None else float(high))


def sets_of(data: RunData) -> list[str]:
    """Evaluation sets that were measured at any time."""
    found = (name for entry in data.evaluations.values() for name in entry["sets"])
    return [name for name in dict.fromkeys(found) if any(entry_of(data, when, name) for when in data.evaluations)]


def entry_of(data: RunData, when: str, name: str) -> dict[str, Any]:
    """What was measured of a set at a time; empty if nothing."""
    entry = data.evaluations.get(when, {}).get("sets", {}).get(name)
    return entry if isinstance(entry, dict) else {}


def figures_of(data: RunData, name: str) -> list[str]:
    """Names of a set's figures: greedy, avg@k, pass@2, ...; pass@1 is avg@k and left out."""
    entries = [entry_of(data, when, name) for when in data.evaluations]
    found = {key for entry in entries for key in entry if is_accuracy(key) and key != "pass@1"}
    order = ("greedy", "avg", "maj", "pass")
    return sorted(found, key=lambda key: (order.index(key.partition("@")[0]), len(key), key))


def accuracy_section(data: RunData) -> str:
    """For each set a chart and a table; empty if nothing was evaluated."""
    parts = []
    for name in sets_of(data):
        times = [when for when in (*WHENS, *sorted(set(data.evaluations) - {*WHENS})) if entry_of(data, when, name)]
        n = next((number(entry_of(data, when, name).get("n")) for when in times), None)
        title = name if n is None else f"{name} · {n:.0f} held-out problems"
        parts.append(
            f'<div class="pair">{figure(title, "", _chart(data, name, times))}{_table(data, name, times)}</div>'
        )
    return "".join(parts)


def _table(data: RunData, name: str, times: list[str]) -> str:
    head = "".join(f"<th>{escape(when)}</th>" for when in times) + ("<th>change</th>" if set(WHENS) <= {*times} else "")
    rows = []
    for key in figures_of(data, name):
        found = {when: measured(entry_of(data, when, name), key) for when in times}
        cells = "".join(f"<td>{_with_interval(found[when])}</td>" for when in times)
        rows.append(f"<tr><th>{escape(key)}</th>{cells}{_change(found)}</tr>")
    for key, label, form in OTHERS:
        values = [number(entry_of(data, when, name).get(key)) for when in times]
        if any(value is not None for value in values):
            cells = "".join(f"<td>{'–' if value is None else written(value, form)}</td>" for value in values)
            rows.append(f"<tr><th>{label}</th>{cells}{'<td></td>' if set(WHENS) <= {*times} else ''}</tr>")
    note = "Brackets: 95% bootstrap intervals over the problems."
    return (
        f'<figure class="table"><table><thead><tr><th></th>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>'
        f"<p>{note}</p></figure>"
    )


def _with_interval(value: Measured | None) -> str:
    if value is None:
        return "–"
    low, high = f"{100 * value.low:.0f}", f"{100 * value.high:.0f}"
    return f"<b>{100 * value.value:.1f}%</b> <small>[{low}, {high}]</small>"


def _change(found: dict[str, Measured | None]) -> str:
    if not set(WHENS) <= found.keys():
        return ""
    before, after = found["before"], found["after"]
    if before is None or after is None:
        return "<td>–</td>"
    difference = 100 * (after.value - before.value)
    return f'<td class="{"up" if difference > 0 else "down" if difference < 0 else ""}">{difference:+.1f} pts</td>'


def _chart(data: RunData, name: str, times: list[str]) -> str:
    """One row a figure: a dot for each time with its interval, on a scale of 0 to 100%."""
    keys = figures_of(data, name)
    height = TOP + ROW * len(keys) + 22
    inner = WIDTH - LEFT - RIGHT

    def x(value: float) -> float:
        return LEFT + inner * min(1.0, max(0.0, value))

    body = []
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        body.append(f'<path d="M{x(share):.1f} {TOP}V{TOP + ROW * len(keys)}" class="grid"/>')
        body.append(f'<text x="{x(share):.1f}" y="{height - 5}" text-anchor="middle">{100 * share:.0f}%</text>')
    for i, key in enumerate(keys):
        middle = TOP + ROW * (i + 0.5)
        body.append(f'<text x="{LEFT - 12}" y="{middle + 4:.1f}" text-anchor="end" class="strong">{escape(key)}</text>')
        for j, when in enumerate(times):
            value = measured(entry_of(data, when, name), key)
            if value is None:
                continue
            y = middle + 9 * (j - (len(times) - 1) / 2)
            color = f"var(--c{_color(when, j)})"
            body.append(f'<path d="M{x(value.low):.1f} {y:.1f}H{x(value.high):.1f}" stroke="{color}" class="whisker"/>')
            body.append(f'<circle cx="{x(value.value):.1f}" cy="{y:.1f}" r="4.5" fill="{color}"/>')
    legend = "".join(
        f'<span><i class="mark" style="--c:var(--c{_color(when, j)})"></i>{escape(when)} training</span>'
        if when in WHENS
        else f'<span><i class="mark" style="--c:var(--c{_color(when, j)})"></i>{escape(when)}</span>'
        for j, when in enumerate(times)
    )
    svg = f'<svg viewBox="0 0 {WIDTH} {height}" role="img">{"".join(body)}</svg>'
    return f'<div class="legend">{legend}</div>{svg}'


def _color(when: str, place: int) -> int:
    return {"before": 7, "after": 0}.get(when, 1 + place % 6)
