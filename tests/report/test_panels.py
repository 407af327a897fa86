"""Panels and the code that writes metrics agree name by name, and the page of a real run shows its numbers.

`real_run` holds four steps of `stage=rl model=tiny` with a KL penalty, dual clip, dynamic sampling and evaluations during
training. The names that other settings add are read from the code that writes them.
"""

import ast
import html
import re
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
import torch
from fake_runs import metrics_row
from numpy.random import default_rng

from pipeline.common.files import read_jsonl
from pipeline.objectives import (
    FAMILY,
    PolicyLossInputs,
    counterfactual_metrics,
    group_metrics,
    policy_loss,
    prepare,
)
from pipeline.report import read_run, render
from pipeline.report.axes import written
from pipeline.report.panels import GROUPS, WITHOUT_PANEL, Panel
from pipeline.settings import Algo
from pipeline.verify.judge import Judge

ROOT = Path(__file__).resolve().parents[2]
REAL_RUN = Path(__file__).with_name("real_run")
ROWS = list(read_jsonl(REAL_RUN / "metrics.jsonl"))
REAL = {name for row in ROWS for name in row} - {"step"}
WRITERS = (
    "stages/rl.py", "pipeline/rl", "pipeline/rollout/gap.py", "pipeline/tracking", "megatron_patches/training",
    "megatron_patches/engines",
)  # fmt: skip
"""Code that names metrics, apart from the objective and the verifier's pool."""
PANELS = [panel for group in GROUPS for panel in group.panels]


def objective_names() -> set[str]:
    """The metrics of the objective with every optional part on."""
    ones = torch.ones(5, 2, dtype=torch.float64)
    inputs = PolicyLossInputs(
        logp=-ones, old_logp=-ones, advantages=ones[:, 0], mask=ones.bool(), eps_low=0.2 * ones[:, 0],
        eps_high=0.2 * ones[:, 0], ref_logp=-ones, rollout_logp=-ones, entropy=ones,
        pass_rate=torch.linspace(0, 1, 5).double(), denominator=10.0,
    )  # fmt: skip
    algo = Algo(kl_coef=0.1, entropy_coef=0.01, is_form="icepop", dual_clip=3.0)
    tokens = prepare(inputs, algo).tokens(inputs.logp, ones)
    family = 0.2 * torch.ones(len(FAMILY), 2, 5, 2)
    sums = policy_loss(tokens, algo)[1] + counterfactual_metrics(tokens, algo, family)
    rewards = torch.tensor([[1.0, 0.0], [1.0, 1.0]], dtype=torch.float64)
    return {*sums, *group_metrics(rewards, rewards - 1, torch.tensor([0.25, 0.0]), torch.ones(2, 2), algo)}


def code_names() -> set[str]:
    """Keys like `gap/max` of dicts in the writers' code, with `*` where an f-string inserts something, and phases."""
    found = set()
    for path in (ROOT / writer for writer in WRITERS):
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            for node in ast.walk(ast.parse(file.read_text("utf-8"))):
                if isinstance(node, ast.Dict):
                    found |= {text_of(key) for key in node.keys}
                elif isinstance(node, ast.DictComp):
                    found.add(text_of(node.key))
                elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "phase":
                    found.add(f"seconds/{text_of(node.args[0])}")
    return {name for name in found if re.fullmatch(r"[a-z]+/[^/*\s][^\s]*|eval/[^\s]+", name)}


def text_of(node: ast.expr | None) -> str:
    """The text of a string or f-string, with `*` where something is inserted; empty for anything else."""
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "*" for part in node.values)
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def judge_names() -> set[str]:
    """The metrics of `verify.judge`, which are named without their group."""
    counts = Judge("http://127.0.0.1:8000", "model", 1.0, 1).metrics()
    return {f"verify/{name}" for name in (*counts, "judge_overturn_rate")}


WRITTEN = objective_names() | code_names() | judge_names() | REAL


def named_by(panel: Panel) -> list[str]:
    """All metrics and patterns that a panel shows."""
    sums = [part for expression, _ in panel.lines for part in expression.split("+")]
    return [*sums, *(panel.band or ()), *([panel.histogram] if panel.histogram else [])]


def test_the_code_is_found_to_write_what_only_other_settings_write():
    """If the search above found nothing, the tests below would prove nothing."""
    assert {
        "gap/sync_max",
        "sync/gib",
        "seconds/sync_check",
        "rollout/version_lag_max",
        "optim/skipped",
    } <= code_names()
    assert {"gap/is_weight", "policy/kl_ref_k3", "clip/dual", "clip/high_pass_rate_0.2-0.4"} <= objective_names()
    assert {name for name in REAL if not name.startswith("verify/")} - {"eval/held_out/avg@8"} > {"clip/dual"}


def test_every_written_metric_has_a_panel_or_a_reason_to_have_none():
    shown = [name for panel in PANELS for name in named_by(panel)]
    without = {name for name in WRITTEN if not any(fnmatchcase(name, pattern) for pattern in shown)}
    assert without == set(WITHOUT_PANEL)


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel.title)
def test_a_panel_names_only_metrics_that_are_written(panel):
    for pattern in named_by(panel):
        assert any(fnmatchcase(name, pattern) for name in WRITTEN), pattern


def test_invented_runs_have_the_names_of_real_ones():
    invented = set(metrics_row(20, 40, default_rng(0))) - {"step", "custom/kv_cache_mib"}
    assert {name for name in invented if not any(fnmatchcase(name, pattern) for pattern in WRITTEN)} == set()


FIGURES = {
    html.unescape(title): {
        html.unescape(label).strip(): html.unescape(value)
        for label, value in re.findall(r"</i>(.*?) <b>(.*?)</b>", body.partition("<svg")[0])
    }
    for title, body in re.findall(
        r"<figure><figcaption>(.*?)<span(.*?)</figure>", render(read_run(REAL_RUN)), re.DOTALL
    )
}
"""Title -> label -> last value, of every chart of the real run's page."""


def last(expression: str) -> float | None:
    """The last value of a sum of metrics in the real run; None if a metric is missing."""
    parts = [[row[name] for row in ROWS if row.get(name) is not None] for name in expression.split("+")]
    return sum(values[-1] for values in parts) if all(parts) else None


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel.title)
def test_the_page_shows_a_real_runs_last_numbers(panel):
    if not any(fnmatchcase(name, pattern) for name in REAL for pattern in named_by(panel)):
        assert panel.title not in FIGURES
        return
    legend = FIGURES[panel.title]
    values = {label: last(expression) for expression, label in panel.lines if "*" not in expression}
    for pattern in (expression for expression, _ in panel.lines if "*" in expression):
        names = {name for name in REAL if fnmatchcase(name, pattern)} - {"seconds/step"}
        values |= {name.removeprefix(pattern.partition("*")[0]).replace("_", " "): last(name) for name in names}
    assert legend
    for label, shown in legend.items():
        if panel.stacked and label == "other":  # the rest of the step
            continue
        if panel.stacked and ROWS[-1].get(f"seconds/{label}") is None:  # no such phase in the last step
            assert shown == "0 s"
        else:
            assert shown == written(values[label], panel.form), label
    hidden = {label for label, value in values.items() if value is not None and label not in legend}
    assert all(values[label] in [values[name] for name in legend] for label in hidden)  # twins of a curve that is shown


def test_a_real_run_leaves_nothing_unnamed():
    page = render(read_run(REAL_RUN))
    assert "Everything else" not in page
    sft = list(read_jsonl(REAL_RUN / "sft" / "metrics.jsonl"))[-1]
    assert FIGURES["Warm-up loss"] == {"loss": written(sft["sft/loss"])}
    assert FIGURES["Warm-up learning rate"] == {"rate": written(sft["sft/lr"])}
    assert "Before and after" in page
