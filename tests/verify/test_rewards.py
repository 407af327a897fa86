"""Reward functions by name and by import path."""

import math
import sys
from types import SimpleNamespace

import pytest

from pipeline.common.errors import UsageError
from pipeline.verify import Grade, grade
from pipeline.verify.rewards import Outcome, RewardConfig, RewardError, Scorer, resolve, score

CONFIG = RewardConfig(max_length=100, overlong_buffer=20)
RIGHT, WRONG = Grade(True, "1", "equal"), Grade(False, "2", "different")


def _outcome(text: str = "", grade: Grade = RIGHT, length: int = 10, finish_reason: str = "stop") -> Outcome:
    return Outcome(text, grade, length, finish_reason)


def test_correctness() -> None:
    assert score(_outcome(), {"correctness": 1.0}, CONFIG) == 1.0
    assert score(_outcome(grade=WRONG), {"correctness": 1.0}, CONFIG) == 0.0


@pytest.mark.parametrize(("length", "penalty"), [(0, 0), (80, 0), (85, -0.25), (90, -0.5), (100, -1), (150, -1)])
def test_overlong_is_equation_13_of_dapo(length: int, penalty: float) -> None:
    for buffer in (20, 0.2):
        config = RewardConfig(max_length=100, overlong_buffer=buffer)
        assert math.isclose(score(_outcome(length=length), {"overlong": 1.0}, config), penalty, abs_tol=1e-12)


FORMATS = [
    (r"So it is \boxed{2}.", "stop", 1.0),
    (r"So it is \boxed{2}", "length", 0.0),
    ("<think>a</think><answer>2</answer>", "stop", 1.0),
    (r"\boxed{1} \boxed{2}", "stop", 0.0),
    (r"<think>\boxed{1}</think> \boxed{2}", "stop", 1.0),
    ("The number is two.", "stop", 0.0),
]


@pytest.mark.parametrize(("text", "finish_reason", "reward"), FORMATS)
def test_format(text: str, finish_reason: str, reward: float) -> None:
    outcome = _outcome(text, grade(text, "2"), finish_reason=finish_reason)
    assert score(outcome, {"format": 1.0}, CONFIG) == reward


def test_sums_and_custom_functions(monkeypatch: pytest.MonkeyPatch) -> None:
    module = SimpleNamespace(brief=lambda outcome, config: 1 - outcome.length / config.max_length, number=3)
    monkeypatch.setitem(sys.modules, "my_rewards", module)
    weights = {"correctness": 2.0, "my_rewards:brief": 0.5}
    assert score(_outcome(length=50), weights, CONFIG) == 2.25
    verify = SimpleNamespace(overlong_buffer=20, rewards=weights)
    assert Scorer(verify, max_new_tokens=100)("", RIGHT, 50) == 2.25
    with pytest.raises(UsageError, match="not a function"):
        resolve("my_rewards:number")


def test_unknown_names_say_what_there_is() -> None:
    with pytest.raises(UsageError, match="Did you mean correctness"):
        resolve("corectness")
    with pytest.raises(UsageError, match="cannot import"):
        resolve("no_such_module_anywhere:reward")


@pytest.mark.parametrize("bad", [math.nan, math.inf, None, "much"])
def test_a_reward_that_is_no_finite_number_is_named(monkeypatch: pytest.MonkeyPatch, bad: object) -> None:
    module = SimpleNamespace(odd=lambda outcome, config: bad if outcome.length == 7 else 1.0)
    monkeypatch.setitem(sys.modules, "my_rewards", module)
    weights = {"correctness": 1.0, "my_rewards:odd": 0.0}  # a weight of 0 would hide infinity as NaN
    scorer = Scorer(SimpleNamespace(overlong_buffer=20, rewards=weights), max_new_tokens=100)
    assert scorer("the answer is 4", RIGHT, 8) == 1.0
    for call in (
        lambda: scorer("the answer is 4", RIGHT, 7),
        lambda: score(_outcome("the answer is 4", length=7), weights, CONFIG),
    ):
        with pytest.raises(RewardError) as caught:
            call()
        for part in ("my_rewards:odd", repr(bad), "7 tokens", "the answer is 4"):
            assert part in str(caught.value)
