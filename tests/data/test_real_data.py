"""The public data sets beside the project, if they are there: their known traps are found."""

from collections import Counter
from pathlib import Path

import pytest
from own_data import preprocessed, rows_of

from pipeline.data.intake import Intake
from pipeline.settings import Data

SETS = Path(__file__).resolve().parents[3] / "shared" / "data" / "sets"

pytestmark = pytest.mark.skipif(not SETS.is_dir(), reason="../shared/data does not exist")


@pytest.mark.slow
def test_math_and_aime(tmp_path):
    run, result = preprocessed(
        tmp_path,
        f"data.path={SETS / 'math_train.jsonl'}",
        f"data.eval_path.math500={SETS / 'math500.jsonl'}",
        f"data.eval_path.aime24={SETS / 'aime24.jsonl'}",
        "rollout.max_prompt_tokens=2048",
    )
    quarantine = [(row["line"], row["reason"]) for row in rows_of(run, "quarantine") if row["reason"] == "empty answer"]
    assert quarantine == [(5342, "empty answer"), (5344, "empty answer")]
    boxed = next(row for row in rows_of(run, "sft") if row["id"] == "math_train_888")  # ends in `\boxed 2`
    assert boxed["response"].endswith("$\\boxed 2$.")
    reasons = Counter(row["reason"] for row in rows_of(run, "dropped"))
    assert 80 <= reasons["contaminated"] <= 120
    assert reasons["duplicate"] == 4
    assert result["files"]["eval/math500"] == {"read": 500, "kept": 500}
    assert result["files"]["eval/aime24"] == {"read": 30, "kept": 30}
    held_out = {row["problem"] for row in rows_of(run, "eval/math500")}
    assert not held_out & {row["problem"] for row in rows_of(run, "train")}


def test_latex_that_json_escapes_damaged_is_restored_in_dapo():
    """613 of its problems hold a form feed and `rac{m}{n}`, which was `\\frac{m}{n}`."""
    damaged = {
        number
        for number, line in enumerate((SETS / "dapo_math_17k.jsonl").read_text("utf-8").split("\n")[:9000], 1)
        if "\\frac{" in line and "\\\\frac" not in line
    }
    found = Intake(Data(path=[str(SETS / "dapo_math_17k.jsonl")], limit=9000)).train()
    restored = [problem for problem in found if problem.line in damaged]
    assert len(restored) > 100
    assert all("\\frac{" in problem.problem for problem in restored)
