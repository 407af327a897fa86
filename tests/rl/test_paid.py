"""What a step logs of how its right answers were given."""

import torch

from pipeline.rl.checks import paid_metrics
from pipeline.rl.collector import StepBatch
from pipeline.rl.grading import Graded
from pipeline.rollout.interface import Prompt, Rollout
from pipeline.verify import Grade

WAYS = [
    (r"Thus $x = \boxed{7}$.", "stop", "string"),
    (r"We get $\boxed{3}$ and $\boxed{4}$.", "stop", "structure"),  # two boxes, one answer
    ("<answer>7</answer>", "stop", "number"),
    ("The answer is 7.", "stop", "string"),
    ("Adding both, there are 7.", "stop", "string"),
    (r"\boxed{7} Let me say more about", "length", "string"),
    ("There are 8.", "stop", ""),  # wrong: it is not paid, so it counts nowhere
]


def batch(ways: list[tuple[str, str, str]]) -> StepBatch:
    prompt = Prompt(id="p", token_ids=[1], gold="7", text="How many?")
    group = [
        Rollout(
            prompt=prompt,
            sample=i,
            token_ids=[1],
            logps=[0.0],
            raw_logps=[0.0],
            finish_reason=reason,
            policy_version=0,
            text=text,
        )
        for i, (text, reason, _) in enumerate(ways)
    ]
    grades = [Grade(bool(layer), "7", "equal" if layer else "different", layer or "number") for _, _, layer in ways]
    right = torch.tensor([[float(grade.correct) for grade in grades]], dtype=torch.float64)
    return StepBatch([group], Graded([grades], right, right))


def test_shares_of_the_right_answers() -> None:
    assert paid_metrics(batch(WAYS)) == {
        "verify/paid": 6.0, "verify/paid_unboxed": 3 / 6, "verify/paid_prose": 1 / 6, "verify/paid_other_form": 1 / 6,
    }  # fmt: skip
    assert paid_metrics(batch(WAYS[-1:])) == {"verify/paid": 0.0}


def test_of_many_right_answers_a_part_is_read_and_all_are_counted() -> None:
    found = paid_metrics(batch([WAYS[0], WAYS[4]] * 1500))
    assert found["verify/paid"] == 3000
    assert abs(found["verify/paid_prose"] - 0.5) < 0.05
