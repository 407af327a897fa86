"""The audit of a run's rewards: which verdicts are doubtful, in which order they are shown, and the stage that makes it."""

import sys
from types import SimpleNamespace

import pytest
from fake_runs import metrics_row, write_run
from numpy.random import default_rng
from pages import HOSTILE, Page

from pipeline.common.errors import UsageError
from pipeline.common.files import write_jsonl
from pipeline.report import read_run, render
from pipeline.report.audit import Audit, Verdict, disagreement, doubtful_page, doubts, most_doubtful, summary
from pipeline.report.kept import kept_rollouts
from pipeline.settings import Report, Verify
from pipeline.stage import StageRun
from stages import report
from stages.bench.math_verify import math_verify


def verdict(extracted: str = "1", right: bool = True, **changes) -> Verdict:
    plain = {
        "place": "step 1",
        "problem": "1+0=",
        "gold": "1",
        "response": rf"\boxed{{{extracted}}}",
        "reason": "equal" if right else "different",
        "layer": "string",
        "unread": "",
        "given": "box",
        "paid": right,
        "judged": False,
        "peer": None,
    }
    return Verdict(**plain | {"extracted": extracted, "right": right} | changes)


REASONS = [
    ({}, []),
    ({"peer": True}, []),
    ({"peer": False}, ["right here, wrong for math-verify: string"]),
    ({"right": False, "peer": True}, ["wrong here, right for math-verify: different"]),
    (
        {"right": False, "peer": True, "layer": "form", "reason": "not evaluated: product"},
        ["wrong here, right for math-verify: not evaluated", "equal, refused for its form"],
    ),
    ({"right": False, "paid": True, "judged": True}, ["paid by the judge alone"]),
    ({"right": False, "paid": True}, ["the run decided otherwise"]),
    ({"paid": None}, []),
    ({"given": "prose", "layer": "value"}, ["right, read from prose", "right by its values"]),
    ({"layer": "symbolic"}, ["right by sympy"]),
    ({"right": False, "unread": "grammar"}, ["wrong, could not be read"]),
    ({"right": False, "unread": "extract"}, []),  # no answer at all
    ({"right": False, "reason": "hedged"}, ["wrong, two different answers"]),
    ({"right": False, "reason": "time-out"}, ["wrong, out of time"]),
]


@pytest.mark.parametrize(("changes", "reasons"), REASONS)
def test_reasons_to_doubt(changes: dict, reasons: list[str]) -> None:
    assert doubts(verdict(**changes)) == reasons
    assert disagreement(verdict(**changes)) == (reasons[0] if reasons and "math-verify" in reasons[0] else None)


def test_disagreements_come_first_each_kind_in_turn_and_equal_answers_once() -> None:
    own = [verdict(f"p{k}", given="prose") for k in range(60)] + [verdict("s", layer="symbolic")]
    refused = [verdict(f"r{k}", right=False, peer=True) for k in range(3)]
    paid = [verdict(f"n{k}", peer=False, layer="number") for k in range(3)] + [
        verdict("v", peer=False, layer="value")
    ] * 5
    shown = [
        found.extracted for found in most_doubtful([*own, *refused, *paid, *[verdict(f"sure{k}") for k in range(9)]])
    ]
    assert shown[:9] == ["n0", "v", "n1", "n2", "r0", "r1", "r2", "p0", "s"]
    assert len(shown) == 50
    assert most_doubtful([verdict()]) == []


def test_the_page_escapes_what_a_model_wrote_and_loads_nothing() -> None:
    hostile = verdict(
        HOSTILE, peer=False, problem=HOSTILE, gold=HOSTILE, response=HOSTILE, reason=HOSTILE, place=HOSTILE
    )
    body = doubtful_page(HOSTILE, Audit([hostile], "evaluated", "0.9.0"))
    assert "<script" not in body
    assert "<img" not in body
    assert Page(body).loads == []


def settings_of(**changes) -> SimpleNamespace:
    """What the stage reads of the settings."""
    return SimpleNamespace(
        stage="report", model_name="tiny", name="tiny", verify=Verify(workers=1), report=Report(**changes)
    )


def samples() -> list[dict]:
    """Rows as stage=rl writes them, of two steps; and rows of other shapes, which an audit passes over."""
    responses = [
        {"text": r"We get \boxed{0.5}.", "correct": True, "layer": "number", "finish_reason": "stop"},
        {"text": r"We get \boxed{1-\frac12}.", "correct": False, "layer": "form", "finish_reason": "stop"},
        {"text": "So the share is 1/2.", "correct": True, "layer": "number", "finish_reason": "stop"},
        {"text": r"It is \boxed{\text{one out of two}}.", "correct": True, "layer": "judge", "finish_reason": "stop"},
        {"text": r"The answer is \frac12. Now", "correct": False, "layer": "extract", "finish_reason": "length"},
        {"text": r"It is \boxed{3}.", "correct": False, "layer": "number", "finish_reason": "stop"},
    ]
    whole = {"problem": "Which share?", "gold": r"\frac12"}
    odd = [{"step": 2}, {"step": 2, "responses": [5, {"text": None}, {}], "problem": "x", "gold": "y"}, {"gold": 3}]
    return [{"step": 1, **whole, "responses": responses}, *odd]


def test_the_stage_audits_without_math_verify_and_says_so(tmp_path, capsys) -> None:
    root = write_run(tmp_path / "tiny", steps=2)
    write_jsonl(root / "samples.jsonl", samples())
    shard = [
        {
            "id": "p",
            "sample": k,
            "problem": "2+2=",
            "gold": "4",
            "response": rf"\boxed{{{k}}}",
            "correct": k == 4,
            "extracted": str(k),
            "finish_reason": "stop",
        }
        for k in (3, 4)
    ]
    write_jsonl(root / "rollout" / "shards" / "00000.jsonl", shard)
    report.main(StageRun(settings=settings_of(), root=root))
    assert "audit.html shows the most doubtful verdicts" in capsys.readouterr().out
    words = Page((root / "report.html").read_text("utf-8")).words
    assert "8 rollouts that the run kept were graded again by its rules (verify.form=evaluated): 3 are right." in words
    assert "math-verify took no part" in words
    assert "equal, refused for its form 1 12.5%" in words
    shown = Page((root / "audit.html").read_text("utf-8")).words
    for part in ("paid by the judge alone", "right, read from prose", "not evaluated", "the run: paid by its judge"):
        assert part in shown
    assert r"\boxed{3}" not in shown  # nobody doubts that it is wrong


STAND_IN = """#!{python}
import json, sys
pairs = [json.loads(line) for line in sys.stdin]
verdicts = ["boxed" in response for response, gold in pairs]
print(json.dumps({{"version": "0.9.0", "rows_s": 1.0, "median_ms": 1.0, "p95_ms": 1.0, "verdicts": verdicts}}))
"""


def test_the_stage_compares_with_math_verify(tmp_path) -> None:
    """The interpreter that is named here pays every box."""
    python = tmp_path / "python"
    python.write_text(STAND_IN.format(python=sys.executable))
    python.chmod(0o755)
    root = write_run(tmp_path / "tiny", steps=2)
    write_jsonl(root / "samples.jsonl", samples())
    report.main(StageRun(settings=settings_of(peer_python=str(python)), root=root))
    words = Page((root / "report.html").read_text("utf-8")).words
    assert "math-verify 0.9.0 agrees on 33.3% of them" in words
    assert "right here, wrong for math-verify: number 1 16.7%" in words
    assert "wrong here, right for math-verify: not evaluated 1 16.7%" in words
    python.write_text("#!/bin/sh\necho no module named math_verify >&2\nexit 1\n")
    with pytest.raises(UsageError, match=r"(?s)report\.peer_python=.*no module named math_verify"):
        math_verify("report.peer_python", str(python), [("1", "1")])
    with pytest.raises(UsageError, match=r"report\.peer_python=/nowhere/python: .*No such file"):
        math_verify("report.peer_python", "/nowhere/python", [("1", "1")])


def test_an_audit_can_be_turned_off_and_needs_rollouts(tmp_path) -> None:
    root = write_run(tmp_path / "tiny", steps=2)
    report.main(StageRun(settings=settings_of(audit_rows=0), root=root))
    (root / "samples.jsonl").unlink()
    report.main(StageRun(settings=settings_of(), root=root))
    assert not (root / "audit.html").exists()


def test_rollouts_are_spread_over_the_run_and_a_damaged_shard_costs_its_rows_alone(tmp_path) -> None:
    root = write_run(tmp_path / "tiny", steps=40)
    data = read_run(root)
    places = [int(row["place"].split()[1]) for row in kept_rollouts(root, data, 40)]
    assert places == sorted(places)
    assert (len(places), places[0]) == (40, 1)
    assert places[-1] >= 39
    shard = root / "rollout" / "shards" / "00000.jsonl"
    shard.parent.mkdir(parents=True)
    shard.write_text('{"id": 1}\nnot json\n')
    assert len(kept_rollouts(root, data, 10**6)) == 40 * 2 * 4
    assert any("00000.jsonl, line 2: not JSON" in gap for gap in data.missing)


def test_the_report_shows_a_drift(tmp_path) -> None:
    rows = [metrics_row(step, 60, default_rng(step)) for step in range(1, 61)]
    write_jsonl(tmp_path / "metrics.jsonl", rows)
    assert "How answers are paid has changed" not in Page(render(read_run(tmp_path))).words
    drifted = [row | {"verify/paid_unboxed": 0.5} if row["step"] > 30 else row for row in rows]
    write_jsonl(tmp_path / "metrics.jsonl", drifted)
    words = Page(render(read_run(tmp_path))).words
    assert "How answers are paid has changed" in words
    assert "were given without a box" in words


def test_the_summary_names_the_share_that_math_verify_shares() -> None:
    assert "agrees on 75.0%" in summary(Audit([verdict(peer=True)] * 3 + [verdict(peer=False)], "equal", "0.9.0"))
    assert "math-verify took no part" in summary(Audit([verdict()], "equal", None))
