"""The charts of one run: each panel with the metrics that the run logged, then the metrics that no panel names."""

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from pipeline.report.charts import Line, heatmap, line_chart, stacked_chart
from pipeline.report.panels import GROUPS, WITHOUT_PANEL, Panel
from pipeline.report.read import Row
from pipeline.report.text import escape
from pipeline.tracking.values import is_histogram, number

COLORS = 8
"""Colours in the page's palette, and the most curves of one chart."""

Column = list[float | None]


class Metrics:
    """The rows of metrics.jsonl as columns."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = rows
        self.steps = [float(row["step"]) for row in rows]
        names = list(dict.fromkeys(name for row in rows for name in row if name != "step"))
        self.histograms = [name for name in names if any(is_histogram(row.get(name)) for row in rows)]
        columns = {name: self._column(name) for name in names if name not in self.histograms}
        self.columns = {name: column for name, column in columns.items() if any(v is not None for v in column)}
        self.empty = [name for name in columns if name not in self.columns]
        """Logged, but never as a finite number."""

    def get(self, expression: str) -> Column | None:
        """A metric's column, or the sum of several joined by `+`; None unless all are there."""
        parts = [self.columns.get(name) for name in expression.split("+")]
        if any(part is None for part in parts):
            return None
        rows = zip(*(part for part in parts if part is not None), strict=True)
        return [None if None in row else sum(value for value in row if value is not None) for row in rows]

    def matching(self, pattern: str, only_shares: bool = False) -> list[str]:
        """Names that match a pattern with `*`, sorted; `only_shares`: those that stay within 0..1."""
        found = [name for name in self.columns if fnmatchcase(name, pattern)]
        if only_shares:
            found = [name for name in found if all(v is None or -1e-9 <= v <= 1 + 1e-9 for v in self.columns[name])]
        return sorted(found)

    def _column(self, name: str) -> Column:
        return [number(row.get(name)) for row in self.rows]


def sections(metrics: Metrics, extra: dict[str, list[str]] | None = None) -> Iterable[tuple[str, str, list[str]]]:
    """Yields (title, note, charts) of every group that has a chart; `extra` charts are added to groups by title."""
    used = set(WITHOUT_PANEL)
    for group in GROUPS:
        charts = [chart for panel in group.panels if (chart := _panel(panel, metrics, used))]
        charts += (extra or {}).get(group.title, [])
        if charts:
            yield group.title, group.note, charts
    rest = [_single(name, metrics) for name in sorted(set(metrics.columns) - used)]
    rest += [_histogram(name, name, "", metrics, None) for name in metrics.histograms if name not in used]
    if rest or metrics.empty:
        note = f"Never a finite number: {', '.join(sorted(metrics.empty))}." if metrics.empty else ""
        yield "Everything else", note, rest


def figure(title: str, note: str, body: str) -> str:
    """A chart on its card."""
    note = f"<p>{escape(note)}</p>" if note else ""
    return f'<figure><figcaption>{escape(title)}<span class="at"></span></figcaption>{note}{body}</figure>'


def _panel(panel: Panel, metrics: Metrics, used: set[str]) -> str | None:
    if panel.stacked:
        return _seconds(panel, metrics, used)
    if panel.histogram:
        if panel.histogram not in metrics.histograms:
            return None
        used |= {panel.histogram}
        return _histogram(panel.histogram, panel.title, panel.note, metrics, metrics.get(panel.lines[0][0]))
    lines: list[Line] = []
    for expression, label in panel.lines:
        names = [expression]
        if "*" in expression:
            names = metrics.matching(expression, only_shares=panel.form == "share")
        for name in names:
            column = metrics.get(name)
            if column is None or len(lines) == COLORS:
                continue
            used |= set(name.split("+"))
            if len(set(column)) == 1 or column not in [line.values for line in lines]:  # equal curves would overlap
                lines.append(Line(label or _star(expression, name), column, len(lines)))
    if not lines:
        return None
    band = None
    if panel.band:
        low, high = (metrics.get(name) for name in panel.band)
        if low is not None and high is not None:
            used |= set(panel.band)
            band = (low, high)
    chart = line_chart(
        metrics.steps, lines, form=panel.form, log=panel.log, zero=panel.zero, smooth=panel.smooth, band=band
    )
    return figure(panel.title, panel.note, chart)


def _seconds(panel: Panel, metrics: Metrics, used: set[str]) -> str | None:
    """Phases by their share of the time, largest first; the rest of the step is `other`."""
    names = metrics.matching(panel.lines[0][0])
    if not names:
        return None
    used |= set(names)
    whole = metrics.columns.get("seconds/step")
    phases = {_star(panel.lines[0][0], name): metrics.columns[name] for name in names if name != "seconds/step"}
    by_time = sorted(phases, key=lambda name: -sum(value or 0.0 for value in phases[name]))
    lines = [Line(name, phases[name], i) for i, name in enumerate(by_time[: COLORS - 1])]
    if whole is not None:
        shown = [sum(line.values[i] or 0.0 for line in lines) for i in range(len(whole))]
        other: Column = [max(0.0, (total or 0.0) - part) for total, part in zip(whole, shown, strict=True)]
        lines.append(Line("other" if lines else "whole step", other, COLORS - 1))
    return figure(panel.title, panel.note, stacked_chart(metrics.steps, lines, form=panel.form))


def _histogram(name: str, title: str, note: str, metrics: Metrics, mean: Column | None) -> str:
    """A heatmap of the rows that have the last row's edges; other edges do not fit its axis."""
    found = [(i, row[name]) for i, row in enumerate(metrics.rows) if is_histogram(row.get(name))]
    edges = found[-1][1]["edges"]
    found = [(i, value) for i, value in found if value["edges"] == edges]
    line = None if mean is None else [mean[i] for i, _ in found]
    chart = heatmap([metrics.steps[i] for i, _ in found], [value["counts"] for _, value in found], edges, line)
    return figure(title, note, chart)


def _single(name: str, metrics: Metrics) -> str:
    return figure(name, "", line_chart(metrics.steps, [Line("", metrics.columns[name])]))


def _star(pattern: str, name: str) -> str:
    """The part of the name that the pattern's star matched."""
    before, _, after = pattern.partition("*")
    return name.removeprefix(before).removesuffix(after).strip("_/").replace("_", " ") or "all"
