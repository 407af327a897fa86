"""Draws a comparison for docs/evidence.md.

`.venv/bin/python docs/evidence/draw.py docs/evidence/hot.json` writes hot.svg beside it.
"""

import json
import sys
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "evidence",  # the same numbers give the same file
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def draw(result: dict[str, Any], target: Path) -> None:
    """Left, the paired differences of final accuracy; right, the learning curves of the subject and its controls.

    Args:
        result: what stage=compare wrote as compare.json.
        target: the SVG file to write. The same result gives the same bytes.
    """
    plt.rcParams.update(STYLE)
    rows = [c for c in result["comparisons"] if c["figure"] == "final_accuracy"]
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 1.4 + 0.28 * max(len(rows), 6)), layout="constrained")
    _differences(left, rows)
    _curves(right, result["arms"], bands=len(rows) < 6)
    figure.savefig(target, metadata={"Date": None})


def _differences(axes: Axes, rows: list[dict[str, Any]]) -> None:
    axes.axvline(0, color="0.6", linewidth=0.8)
    axes.locator_params(axis="x", nbins=6)
    for place, row in enumerate(reversed(rows)):
        d = row["difference"]
        clear = d["low"] > 0 or d["high"] < 0
        axes.plot([d["low"], d["high"]], [place, place], color="C0" if clear else "0.5", linewidth=2)
        axes.plot(d["mean"], place, "o", color="C0" if clear else "0.5")
    axes.set_yticks(range(len(rows)), [f"- {row['control']}" for row in reversed(rows)])
    seeds = " or ".join(map(str, sorted({row["difference"]["seeds"] for row in rows})))
    axes.set_title(f"{rows[0]['subject']} minus control, final accuracy,\n{seeds} paired seeds")


def _curves(axes: Axes, arms: dict[str, Any], bands: bool) -> None:
    for name, arm in arms.items():
        columns = list(zip(*(run["curve"] for run in arm["runs"].values()), strict=True))
        steps = range(1, len(columns) + 1)
        mean = [fmean(column) for column in columns]
        (line,) = axes.plot(steps, mean, label=name, linewidth=1.2)
        if bands:  # the standard error over seeds; a dozen bands would hide each other
            error = [stdev(column) / len(column) ** 0.5 for column in columns]
            low, high = zip(*((m - e, m + e) for m, e in zip(mean, error, strict=True)), strict=True)
            axes.fill_between(steps, low, high, color=line.get_color(), alpha=0.15, linewidth=0)
    axes.set_title("training accuracy,\nmean over seeds" + (" and standard error" if bands else ""))
    axes.set_xlabel("step")
    axes.legend(frameon=False, fontsize=7, ncols=2)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        draw(json.loads(Path(name).read_text()), Path(name).with_suffix(".svg"))
