"""Instructions that published data sets put around their problems are removed, and nothing else is."""

import pytest
from own_data import preprocessed, rows_of, write_rows

from pipeline.data.wrappers import unwrapped

PROBLEM = "Let $x$ be a number. What is $x+1$?"
DAPO = (
    "Solve the following math problem step by step. The last line of your response should be of the form Answer: $Answer "
    "(without quotes) where $Answer is the answer to the problem.\n\n",
    '\n\nRemember to put your answer on its own line after "Answer:".',
)
CHINESE = (
    "\n让我们一步一步地思考。请以“Answer: \\boxed{<final_answer>}”的格式输出最终答案。如果是选择题，请按顺序输出正确的选项，"
    "不带任何标点或空格。对于其他类型的问题，请只输出最终答案的数值。"
)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        DAPO,
        ("", CHINESE),
        ("", ' Let\'s think step by step and output the final answer after "####".'),
        ("", " Let's think step by step and output the final answer within \\boxed{}."),
        ("", "\nPlease reason step by step, and put your final answer within \\boxed{}."),
        ("", "\n\nPresent the answer in LaTex format: \\boxed{Your answer}"),
        ("Please reason step by step, and put your final answer within \\boxed{}.\n", ""),
        ("", "\n请逐步推理，并将最终答案放在 \\boxed{} 中。"),
        ("", " Let's think step by step."),
        (DAPO[0], "\nPlease put your final answer in \\boxed{}." + DAPO[1]),
    ],
)
def test_known_instructions_are_removed(before, after):
    assert unwrapped(f"{before}{PROBLEM}{after}").strip() == PROBLEM


@pytest.mark.parametrize(
    "problem",
    [
        PROBLEM,
        "Find $m+n$. Think about it step by step: first find $m$.",
        "Let $\\boxed{N}$ mean the number of divisors of $N$. Find \\[\\boxed{\\boxed{11}\\times\\boxed{20}}\\]",
        "Please reason step by step, and put your final answer within \\boxed{}.",  # nothing else would be left
        "What is the last line of the form $ax+b$? Answer: the one with $a=1$.",
    ],
)
def test_problems_stay_as_they_are(problem):
    assert unwrapped(problem) == problem


def test_how_many_were_removed_is_said_and_it_can_be_turned_off(tmp_path, capsys):
    rows = [{"prompt": f"{DAPO[0]}What is {i}+{i + 1} and {i * i}?{DAPO[1]}", "label": str(i)} for i in range(4)]
    write_rows(tmp_path / "a.jsonl", rows)
    words = [f"data.path={tmp_path}/a.jsonl", "data.clean.near_duplicate_threshold=1"]
    run, _ = preprocessed(tmp_path, *words)
    assert [row["problem"] for row in rows_of(run, "train")] == [f"What is {i}+{i + 1} and {i * i}?" for i in range(4)]
    assert "4 problems had an answer-format instruction of their own, which was removed" in capsys.readouterr().out
    run, _ = preprocessed(tmp_path, *words, "data.clean.strip_instructions=false")
    assert rows_of(run, "train")[0]["problem"].startswith("Solve the following math problem")
