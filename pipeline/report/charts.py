"""Charts as inline SVG: lines over training steps, stacked areas, and heatmaps of histograms.

Colours and fonts are CSS variables, so that one file serves light and dark mode; `hover.js` reads the numbers
from `data-chart` and shows the values at the step under the pointer in the legend.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.report.axes import Axis, Form, fit, steps_axis, tick, written
from pipeline.report.text import escape

WIDTH, HEIGHT = 560, 210
LEFT, RIGHT, TOP, BOTTOM = 50, 10, 8, 24
INNER_WIDTH, INNER_HEIGHT = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
MOST_POINTS = 300
"""Longer runs are drawn as means of neighbouring steps, because more points than pixels add nothing."""
SMOOTH_FROM = 40
"""With `smooth`, curves of at least this many values are drawn faint, with their moving average on top."""

Values = Sequence[float | None]


@dataclass(frozen=True)
class Line:
    """One curve; None where a step has no value."""

    label: str
    values: Values
    color: int = 0


def line_chart(
    steps: Sequence[float],
    lines: Sequence[Line],
    *,
    form: Form = "number",
    log: bool = False,
    zero: bool = False,
    smooth: bool = False,
    band: tuple[Values, Values] | None = None,
) -> str:
    """Curves over steps, with a legend that shows the last values.

    Args:
        steps: [n], rising.
        lines: curves of n values each.
        form, log, zero: of the value axis.
        smooth: draw a moving average over long curves.
        band: lower and upper edge, n values each, of an area behind the curves.
    """
    xs, columns = thinned(steps, [line.values for line in lines] + ([*band] if band else []))
    curves, edges = columns[: len(lines)], columns[len(lines) :]
    x_axis = steps_axis(xs[0], xs[-1])
    y_axis = fit((v for column in columns for v in column if v is not None), log=log, zero=zero)
    body = [_frame(x_axis, y_axis, form)]
    if edges:
        body.append(_band(xs, edges[0], edges[1], x_axis, y_axis))
    for line, values in zip(lines, curves, strict=True):
        style = f'stroke="var(--c{line.color})"'
        if smooth and sum(value is not None for value in values) >= SMOOTH_FROM:
            body.append(_curve(xs, values, x_axis, y_axis, style, "raw"))
            values = averaged(values)
        body.append(_curve(xs, values, x_axis, y_axis, style))
    legend = [(line.label, line.color) for line in lines]
    return _figure(xs, legend, curves, form, "".join(body))


def stacked_chart(steps: Sequence[float], lines: Sequence[Line], *, form: Form = "number") -> str:
    """Areas on top of each other, the first at the bottom; a missing value is 0."""
    xs, columns = thinned(steps, [line.values for line in lines])
    filled = [[value or 0.0 for value in column] for column in columns]
    shape = [xs[0] - 0.5, xs[0] + 0.5] if len(xs) == 1 else xs
    x_axis = steps_axis(xs[0], xs[-1])
    y_axis = fit((sum(at) for at in zip(*filled, strict=True)), zero=True)
    body, floor = [_frame(x_axis, y_axis, form)], [0.0] * len(xs)
    for line, column in zip(lines, filled, strict=True):
        top = [low + value for low, value in zip(floor, column, strict=True)]
        upper, lower = (top * 2, floor * 2) if len(xs) == 1 else (top, floor)
        points = [_at(x, y, x_axis, y_axis) for x, y in zip(shape, upper, strict=True)]
        points += reversed([_at(x, y, x_axis, y_axis) for x, y in zip(shape, lower, strict=True)])
        body.append(f'<path d="M{"L".join(points)}Z" fill="var(--c{line.color})" class="layer"/>')
        floor = top
    return _figure(xs, [(line.label, line.color) for line in lines], filled, form, "".join(body))


def heatmap(
    steps: Sequence[float], counts: Sequence[Sequence[float]], edges: Sequence[float], mean: Values | None = None
) -> str:
    """Histograms over steps: each column is one step, and the darker a cell, the larger its share of that step.

    Args:
        steps: [n].
        counts: [n][bins].
        edges: [bins + 1]; all bins are drawn equally high.
        mean: [n], drawn as a curve over it.
    """
    bins = range(len(edges) - 1)
    used = [i for i in bins if any(row[i] for row in counts)] or list(bins)
    first, last = max(0, used[0] - 1), min(len(edges) - 2, used[-1] + 1)
    kept = list(zip(*([row[i] for row in counts] for i in range(first, last + 1)), strict=True))
    xs, columns = thinned(steps, list(zip(*kept, strict=True)), most=120)
    rows = list(zip(*columns, strict=True))  # [n][bins], as the columns of the picture
    totals = [sum(value or 0.0 for value in row) or 1.0 for row in rows]
    peak = max(((value or 0.0) / total for row, total in zip(rows, totals, strict=True) for value in row), default=1.0)
    width, height = INNER_WIDTH / len(xs), INNER_HEIGHT / (last - first + 1)
    levels: dict[int, list[str]] = {}
    for i, (row, total) in enumerate(zip(rows, totals, strict=True)):
        for j, value in enumerate(row):
            level = round(9 * ((value or 0.0) / total / (peak or 1.0)) ** 0.6)
            if level:
                x, y = LEFT + i * width, TOP + INNER_HEIGHT - (j + 1) * height
                levels.setdefault(level, []).append(f"M{x:.1f} {y:.1f}h{width + 0.3:.1f}v{height + 0.3:.1f}H{x:.1f}z")
    body = [
        f'<path d="{"".join(cells)}" fill="var(--c0)" opacity="{level / 9:.2f}"/>'
        for level, cells in sorted(levels.items())
    ]
    count = last - first + 1
    for i in range(0, count + 1, max(1, round(count / 5))):
        y = TOP + INNER_HEIGHT - i * height
        body.append(_label(LEFT - 6, y + 4, f"{edges[first + i]:.3g}", "end"))
    body += [_label(LEFT - 6, HEIGHT - 6, "step", "end"), _step_labels(xs, width)]
    body.append(f'<rect x="{LEFT}" y="{TOP}" width="{INNER_WIDTH}" height="{INNER_HEIGHT}" class="box"/>')
    legend = ""
    if mean is not None:
        _, (line,) = thinned(steps, [mean], most=120)
        points = [
            f"{LEFT + (i + 0.5) * width:.1f} {TOP + INNER_HEIGHT - (place - first) * height:.1f}"
            for i, value in enumerate(line)
            if value is not None and first <= (place := _bin_place(value, edges)) <= last + 1
        ]
        if len(points) > 1:
            body.append(f'<path d="M{"L".join(points)}" class="curve" stroke="var(--c1)"/>')
            legend = _legend([("mean", 1)], [line], "number")
    return f'{legend}<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img">{"".join(body)}</svg>'


def thinned(
    steps: Sequence[float], columns: Sequence[Values], most: int = MOST_POINTS
) -> tuple[list[float], list[list[float | None]]]:
    """At most `most` points: means over neighbouring steps, at the middle one; None if all are missing."""
    size = -(-len(steps) // most)
    if size <= 1:
        return list(steps), [list(column) for column in columns]
    starts = range(0, len(steps), size)
    xs = [steps[min(start + size // 2, len(steps) - 1)] for start in starts]
    return xs, [[_mean(column[start : start + size]) for start in starts] for column in columns]


def averaged(values: Values, reach: float = 0.06) -> list[float | None]:
    """Centred moving average with triangular weights, which reach `reach` of the curve's length to either side. Gaps stay
    gaps."""
    width = max(2, round(reach * len(values)))
    smooth: list[float | None] = []
    for i, here in enumerate(values):
        start = max(0, i - width + 1)
        near = [(width - abs(i - j), v) for j, v in enumerate(values[start : i + width], start) if v is not None]
        smooth.append(None if here is None else sum(w * v for w, v in near) / sum(w for w, _ in near))
    return smooth


def _mean(values: Values) -> float | None:
    found = [value for value in values if value is not None]
    return sum(found) / len(found) if found else None


def _at(x: float, y: float, x_axis: Axis, y_axis: Axis) -> str:
    return f"{LEFT + INNER_WIDTH * x_axis.place(x):.1f} {TOP + INNER_HEIGHT * (1 - y_axis.place(y)):.1f}"


def _curve(xs: Sequence[float], values: Values, x_axis: Axis, y_axis: Axis, style: str, kind: str = "curve") -> str:
    """A path that is broken at gaps; single values become dots. A curve with values at fewer than half of the steps was
    measured now and then: its values are dots, joined by a line."""
    runs: list[list[str]] = [[]]
    sparse = sum(value is not None for value in values) * 2 < len(values)
    for x, value in zip(xs, values, strict=True):
        if value is not None:
            runs[-1].append(_at(x, value, x_axis, y_axis))
        elif not sparse:
            runs.append([])
    line = "".join(f"M{'L'.join(run)}" for run in runs if len(run) > 1)
    dots = "".join(f"M{point}h0" for run in runs for point in run if sparse or len(run) == 1)
    return "".join(
        f'<path d="{path}" class="{name}" {style}/>'
        for path, name in ((line, "joined" if sparse else kind), (dots, "dots"))
        if path
    )


def _band(xs: Sequence[float], low: Values, high: Values, x_axis: Axis, y_axis: Axis) -> str:
    points = [(x, a, b) for x, a, b in zip(xs, low, high, strict=True) if a is not None and b is not None]
    outline = [_at(x, b, x_axis, y_axis) for x, _, b in points]
    outline += [_at(x, a, x_axis, y_axis) for x, a, _ in reversed(points)]
    return f'<path d="M{"L".join(outline)}Z" fill="var(--c0)" class="band"/>' if points else ""


def _frame(x_axis: Axis, y_axis: Axis, form: Form) -> str:
    parts = []
    for value in y_axis.ticks:
        y = TOP + INNER_HEIGHT * (1 - y_axis.place(value))
        parts.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" class="grid"/>')
        parts.append(_label(LEFT - 6, y + 4, tick(value, y_axis, form), "end"))
    parts.append(_label(LEFT - 6, HEIGHT - 6, "step", "end"))
    for value in x_axis.ticks:
        parts.append(_label(LEFT + INNER_WIDTH * x_axis.place(value), HEIGHT - 6, f"{value:.0f}", "middle"))
    return "".join(parts)


def _step_labels(xs: Sequence[float], width: float) -> str:
    """Round steps below the columns that hold them."""
    nearest = {
        value: min(range(len(xs)), key=lambda i: abs(xs[i] - value)) for value in steps_axis(xs[0], xs[-1]).ticks
    }
    return "".join(
        _label(LEFT + (i + 0.5) * width, HEIGHT - 6, f"{value:.0f}", "middle") for value, i in nearest.items()
    )


def _label(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _bin_place(value: float, edges: Sequence[float]) -> float:
    """Where a value lies on an axis on which every bin is one unit high."""
    for i in range(len(edges) - 1):
        if edges[i] <= value <= edges[i + 1]:
            return i + (value - edges[i]) / ((edges[i + 1] - edges[i]) or 1.0)
    return -1.0


def _legend(entries: Sequence[tuple[str, int]], columns: Sequence[Values], form: Form) -> str:
    items = []
    for (label, color), values in zip(entries, columns, strict=True):
        last = next((value for value in reversed(values) if value is not None), None)
        figure = "–" if last is None else written(last, form)
        items.append(
            f'<span><i class="mark" style="--c:var(--c{color})"></i>{escape(label)} <b>{escape(figure)}</b></span>'
        )
    return f'<div class="legend">{"".join(items)}</div>'


def _figure(
    xs: Sequence[float], entries: Sequence[tuple[str, int]], columns: Sequence[Values], form: Form, body: str
) -> str:
    short = [[None if value is None else float(f"{value:.5g}") for value in column] for column in columns]
    data = escape(json.dumps({"x": list(xs), "y": short, "form": form}, separators=(",", ":")))
    pointer = f'<path d="M0 {TOP}V{TOP + INNER_HEIGHT}" class="pointer"/>'
    return (
        f"{_legend(entries, columns, form)}"
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" data-chart="{data}" data-left="{LEFT}"'
        f' data-inner="{INNER_WIDTH}">{body}{pointer}</svg>'
    )
