"""Agreement with the test suites of other graders, on the rows that ask for mathematical equality."""

import json
from pathlib import Path

import pytest

from pipeline.verify import VerifierPool

AGREED = {
    "math_verify_tests": 0.985,
    "nemo_skills_math_equal": 0.98,
    "areal_math_verify": 1.0,
    "hendrycks_is_equiv": 0.9,
}
DISAGREEMENTS = {
    # A relation against a set: their option forbids it. The two say the same.
    (r"$-2 \\le x \\le 7$", r"$x \in [-2,7]$"),
    # Their option lets functions differ in their variable's name without a definition to tell that it is bound.
    ("$f(y)$", "$f(x)$"),
    # Expected to be equal by a slip of the suite: 1 + 1/e is not 1 - 1/e.
    (r"$1 + \frac{1}{\mathrm{e}}$", r"$1 - \frac{1}{\mathrm{e}}$"),
}


def _rows(data: Path, name: str) -> list[dict]:
    return [json.loads(line) for line in (data / "fixtures" / f"{name}.jsonl").read_text("utf-8").strip().split("\n")]


def _pairs(rows: list[dict]) -> list[tuple[str, str]]:
    return [(r["pred"] if r["kind"] == "response" else rf"\boxed{{{r['pred']}}}", r["gold"]) for r in rows]


@pytest.mark.parametrize("name", AGREED)
def test_semantic_rows(pool: VerifierPool, data: Path, name: str) -> None:
    rows = [row for row in _rows(data, name) if row["convention"] == "semantic"]
    grades = pool.grade_many(_pairs(rows))
    missed = [row for row, grade in zip(rows, grades, strict=True) if grade.correct is not row["expected"]]
    assert 1 - len(missed) / len(rows) >= AGREED[name]
    assert {(row["pred"], row["gold"]) for row in missed} <= DISAGREEMENTS


@pytest.mark.parametrize("name", ["slime_rm_dapo", "miles_rm_dapo"])
def test_rows_of_the_dapo_convention(pool: VerifierPool, data: Path, name: str) -> None:
    """None is marked semantic, but none pins a habit that mathematics contradicts either."""
    rows = _rows(data, name)
    grades = pool.grade_many(_pairs(rows))
    assert [grade.correct for grade in grades] == [row["expected"] for row in rows]


def test_every_latex_of_another_grammar_equals_itself(pool: VerifierPool, data: Path) -> None:
    latex = [row["latex"] for row in _rows(data, "latex2sympy_parse") if row["parses"] and row["latex"].strip()]
    grades = pool.grade_many([(rf"\boxed{{{text}}}", text) for text in latex])
    missed = [text for text, grade in zip(latex, grades, strict=True) if not grade.correct]
    assert len(missed) <= 0.02 * len(latex), missed
