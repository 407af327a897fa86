"""The notebook that reads a run runs from top to bottom on a real run's files, and draws what they hold."""

import json
import math
import shutil

import pytest
from cli import ROOT

from pipeline.common.files import read_json, read_jsonl, write_json
from pipeline.compare.results import Figures
from pipeline.compare.verdict import summary_of
from pipeline.run.summary import write_summary

NOTEBOOK = ROOT / "examples" / "read-a-run.ipynb"
RUN = ROOT / "tests" / "report" / "real_run"


@pytest.fixture
def drawn(tmp_path, monkeypatch, capsys):
    """The figures of the notebook's cells in their order, and what they printed; beside the runs that it names."""
    plot = pytest.importorskip("matplotlib.pyplot")
    plot.switch_backend("agg")
    shutil.copytree(RUN, tmp_path / "runs" / "tiny")
    write_summary(tmp_path / "runs" / "tiny")
    write_comparison(tmp_path / "runs" / "versus")
    (tmp_path / "examples").mkdir()
    monkeypatch.chdir(tmp_path / "examples")
    names: dict = {}
    for cell in json.loads(NOTEBOOK.read_text("utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)
    figures = [plot.figure(number) for number in plot.get_fignums()]
    for figure in figures:
        figure.canvas.draw()
    yield figures, capsys.readouterr().out
    plot.close("all")


def write_comparison(folder):
    def figures(accuracy):
        return Figures(accuracy, 0.4, 0.5, 0.1, 0.01, False, [0.5], 0.01, 0.01, 0.001)

    table = {
        arm: {seed: figures(accuracy + seed / 100) for seed in range(3)} for arm, accuracy in (("a", 0.5), ("b", 0.4))
    }
    write_json(folder / "compare.json", summary_of(table, {"a": "algo=a", "b": "algo=b"}, "a", 0.02, {}))


def test_the_curves_are_the_run_s(drawn):
    (steps, seconds, scale, accuracy, difference), printed = drawn
    rows = list(read_jsonl(RUN / "metrics.jsonl"))
    reward = steps.axes[0].get_lines()[0]
    assert list(reward.get_xdata()) == [row["step"] for row in rows]
    assert list(reward.get_ydata()) == [row["reward/mean"] for row in rows]
    assert "update" in [text.get_text() for text in seconds.axes[0].get_legend().get_texts()]
    assert list(scale.axes[0].patches[-1].get_data().values) == rows[-1]["hist/scale"]["counts"]
    before = read_json(RUN / "evaluate" / "before.json")["sets"]["held_out"]
    points = accuracy.axes[0].containers[0].lines[0].get_ydata()
    assert list(points) == [before[name] for name in before if f"{name}_ci" in before]
    (interval, mean, _) = difference.axes[0].get_lines()
    assert math.isclose(mean.get_ydata()[0], 0)
    assert interval.get_xdata()[0] <= mean.get_xdata()[0] <= interval.get_xdata()[1]
    assert math.isclose(mean.get_xdata()[0], 0.1)
    sample = next(iter(read_jsonl(RUN / "samples.jsonl")))
    assert f"{len(rows)} steps" in printed
    assert f"step 1: {sample['problem']}   (gold: {sample['gold']})" in printed
    assert "is higher" in printed


def test_it_is_kept_without_outputs():
    cells = json.loads(NOTEBOOK.read_text("utf-8"))["cells"]
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)
