"""One offline page of a comparison: the verdict, intervals, learning curves and every run."""

import math
from typing import Any

from pipeline.compare.results import FINAL, TITLES
from pipeline.report.charts import Line, line_chart
from pipeline.report.page import document
from pipeline.report.sections import figure
from pipeline.report.text import escape

SHARES = {
    "clipped": "clipped, of all tokens",
    "static_clipped": "static bounds would clip, of live tokens",
    "differs": "decided otherwise than static, of live tokens",
    "collapsed": "collapsed runs",
}
"""Columns of the table of arms beside the figures that are compared."""
WIDTH, ROW, LEFT, RIGHT = 620, 30, 190, 70
"""Of the picture of intervals, in its own units."""


def render(summary: dict[str, Any], title: str, command: str) -> str:
    """HTML of what `verdict.summary_of` returned."""
    parts = [
        f"<h1>{escape(title)}</h1>",
        f'<div class="facts"><span>subject <b>{escape(summary["subject"])}</b></span>'
        f"<span>arms <b>{len(summary['arms'])}</b></span><span>{escape(command)}</span></div>",
        "<h2>What follows</h2>",
        "".join(f"<p>{escape(line)}</p>" for line in summary["verdict"])
        or "<p>Nothing yet: no pair of runs finished.</p>",
        _failed(summary["failed"]),
        "<h2>Paired differences</h2>",
        '<p class="lead">Subject minus control at the same seed. The bar is the bootstrap interval of the mean, corrected'
        " for the number of controls; p is the sign test after Holm's correction.</p>",
        f'<div class="pair">{"".join(_intervals(summary, name) for name in TITLES)}</div>',
        "<h2>Learning curves</h2>",
        f'<div class="pair">{_curves(summary)}{_spread(summary)}</div>',
        "<h2>Arms</h2>",
        _arms(summary),
        "<h2>Runs</h2>",
        _runs(summary),
    ]
    return document(title, "".join(parts))


def _failed(failed: dict[str, str]) -> str:
    if not failed:
        return ""
    items = "".join(f"<li>{escape(name)}: {escape(why)}</li>" for name, why in failed.items())
    return f"<aside><b>Runs that did not finish; their seeds are left out of the pairs</b><ul>{items}</ul></aside>"


def _intervals(summary: dict[str, Any], name: str) -> str:
    """A row for each control: interval, mean, and the numbers."""
    rows = [c for c in summary["comparisons"] if c["figure"] == name]
    if not rows:
        return ""
    ends = [abs(c["difference"][end]) for c in rows for end in ("low", "high")]
    reach = max(ends) * 1.1 or 1.0

    def x(value: float) -> float:
        return LEFT + (value + reach) / (2 * reach) * (WIDTH - LEFT - RIGHT)

    height = ROW * len(rows) + 10
    body = [f'<path class="grid" d="M{x(0):.1f} 0V{height}"/>']
    for i, c in enumerate(rows):
        d, y = c["difference"], ROW * i + ROW / 2 + 5
        body.append(f'<text x="{LEFT - 8}" y="{y + 4}" text-anchor="end">{escape(c["control"])}</text>')
        body.append(
            f'<path class="whisker" stroke="var(--c{i % 8})" d="M{x(d["low"]):.1f} {y}H{x(d["high"]):.1f}"/>'
            f'<circle cx="{x(d["mean"]):.1f}" cy="{y}" r="4" fill="var(--c{i % 8})"/>'
            f'<text x="{WIDTH - RIGHT + 6}" y="{y + 4}">{d["mean"]:+.3f}</text>'
        )
    lines = "; ".join(
        f"{c['control']} {c['difference']['wins']} up, {c['difference']['losses']} down, p {c['adjusted_p']:.2g}"
        for c in rows
    )
    picture = f'<svg viewBox="0 0 {WIDTH} {height}" role="img">{"".join(body)}</svg>'
    return figure(TITLES[name], lines, picture)


def _curves(summary: dict[str, Any]) -> str:
    """Mean over seeds of each arm's training accuracy; the band holds the subject's seeds."""
    columns = {arm: _columns(entry) for arm, entry in summary["arms"].items()}
    steps = max((len(column) for column in columns.values()), default=0)
    if not steps:
        return ""
    lines = [
        Line(arm, [_mean(values) for values in column] + [None] * (steps - len(column)), color=i % 8)
        for i, (arm, column) in enumerate(columns.items())
    ]
    subject = columns[summary["subject"]]
    known = [[v for v in values if v is not None] for values in subject] + [[]] * (steps - len(subject))
    band = ([min(v, default=None) for v in known], [max(v, default=None) for v in known])
    chart = line_chart(list(range(1, steps + 1)), lines, form="share", band=band)
    return figure("Training accuracy", f"mean over seeds; the band holds every seed of {summary['subject']}", chart)


def _spread(summary: dict[str, Any]) -> str:
    """Standard deviation over seeds, step by step."""
    columns = {arm: _columns(entry) for arm, entry in summary["arms"].items()}
    steps = max((len(column) for column in columns.values()), default=0)
    if not steps:
        return ""
    lines = [
        Line(arm, [_deviation(values) for values in column] + [None] * (steps - len(column)), color=i % 8)
        for i, (arm, column) in enumerate(columns.items())
    ]
    chart = line_chart(list(range(1, steps + 1)), lines, form="share", zero=True)
    return figure("Spread of the seeds", "standard deviation of training accuracy over seeds", chart)


def _columns(entry: dict[str, Any]) -> list[list[float | None]]:
    """[step][seed]."""
    curves = [run["curve"] for run in entry["runs"].values()]
    longest = max(map(len, curves), default=0)
    return [[curve[i] for curve in curves if i < len(curve)] for i in range(longest)]


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _deviation(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    if len(known) < 2:
        return None
    mean = sum(known) / len(known)
    return math.sqrt(sum((value - mean) ** 2 for value in known) / (len(known) - 1))


def _table(head: list[str], rows: list[list[str]]) -> str:
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<figure class="table"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></figure>'


def _arms(summary: dict[str, Any]) -> str:
    names = {**TITLES, **SHARES}
    head = ["arm", "settings", "seeds", *names.values()]
    rows = [
        [arm, entry["settings"], str(len(entry["seeds"])), *(_shown(entry[name]) for name in names)]
        for arm, entry in summary["arms"].items()
    ]
    return _table(head, rows)


def _runs(summary: dict[str, Any]) -> str:
    rows = [
        [arm, seed, _shown(run["before_accuracy"]), _shown(run[FINAL]), _shown(run["area"]), _shown(run["entropy"]),
         _shown(run["kl"]), "collapsed" if run["collapsed"] else ""]
        for arm, entry in summary["arms"].items()
        for seed, run in entry["runs"].items()
    ]  # fmt: skip
    return _table(["arm", "seed", "before", "after", "area", "entropy", "KL", ""], rows)


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
