r"""Turns a grade into a reward: the weighted sum of named functions.

A reward function takes an `Outcome` and the `RewardConfig`, and returns a float. `verify.rewards` names the functions
and their weights, e.g. `{"correctness": 1.0, "overlong": 1.0}`; a name with a colon (`my_module:my_reward`) is imported.
"""

import importlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from pipeline.common.errors import UsageError, UserError
from pipeline.verify.reading.boxes import find_boxes
from pipeline.verify.reading.extract import extract
from pipeline.verify.reading.response import visible
from pipeline.verify.types import Grade


@dataclass(frozen=True, slots=True)
class Outcome:
    """What is known of one response when it is rewarded."""

    text: str
    grade: Grade
    length: int
    """Tokens of the response."""
    finish_reason: str = "stop"
    """`stop` or `length`."""


@dataclass(frozen=True, slots=True)
class RewardConfig:
    """What reward functions may need of the settings."""

    max_length: int
    """Most tokens that a response may have (`rollout.max_new_tokens`)."""
    overlong_buffer: float
    """Tokens before `max_length` over which `overlong` grows, or below 1 that share of it (`verify.overlong_buffer`)."""


RewardFunction = Callable[[Outcome, RewardConfig], float]


def correctness(outcome: Outcome, config: RewardConfig) -> float:
    """1 where the answer is right, 0 elsewhere."""
    return float(outcome.grade.correct)


def format_reward(outcome: Outcome, config: RewardConfig) -> float:
    r"""1 where the response ended by itself with its answer set apart, in exactly one `\boxed{}` after its thinking
    or in `<answer>` tags; 0 elsewhere. Says nothing of whether the answer is right."""
    if outcome.finish_reason != "stop":
        return 0.0
    text = visible(outcome.text)
    found = extract(text, plain_response=False)
    if found.answer is None or found.hedged:
        return 0.0
    tagged = text.lower().count("<answer>") == 1 and text.lower().count("</answer>") == 1
    return float(tagged or len(find_boxes(text)) == 1)


def overlong(outcome: Outcome, config: RewardConfig) -> float:
    """DAPO's soft penalty for length (arXiv 2503.14476, equation 13): 0 up to `max_length - buffer` tokens, then
    falling in a straight line to -1 at `max_length`, and -1 beyond."""
    buffer = config.overlong_buffer if config.overlong_buffer >= 1 else config.overlong_buffer * config.max_length
    buffer = min(buffer, config.max_length)
    excess = outcome.length - (config.max_length - buffer)
    return -min(max(excess / buffer, 0.0), 1.0)


REWARDS: dict[str, RewardFunction] = {"correctness": correctness, "format": format_reward, "overlong": overlong}


def resolve(name: str) -> RewardFunction:
    """The reward function of that name, or at that import path (`module:function`). Raises UsageError."""
    if name in REWARDS:
        return REWARDS[name]
    module, colon, function = name.partition(":")
    if not colon:
        near = get_close_matches(name, REWARDS, 1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise UsageError(
            f"verify.rewards: there is no reward {name!r}.{hint} Allowed: {', '.join(REWARDS)}, or an import path "
            "`module:function`."
        )
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise UsageError(f"verify.rewards: cannot import {name!r}: {error}") from error
    if not callable(found):
        raise UsageError(f"verify.rewards: {name!r} is not a function (outcome, config) -> float")
    return found


class RewardError(UserError):
    """A reward function returned NaN, infinity or no number: names the function, the value and the response."""


EXCERPT = 80
"""Characters of a response that a RewardError shows."""


def value_of(name: str, function: RewardFunction, outcome: Outcome, config: RewardConfig) -> float:
    """The reward that `function` gives. Raises RewardError unless it is a finite number."""
    found = function(outcome, config)
    try:
        value = float(found)
    except (TypeError, ValueError):
        value = math.nan
    if math.isfinite(value):
        return value
    end = outcome.text[-EXCERPT:]
    raise RewardError(
        f"verify.rewards: {name} gave {found!r}, which is no finite number, for a response of {outcome.length} tokens "
        f"({outcome.finish_reason}, {'right' if outcome.grade.correct else 'wrong'}) that ends in {end!r}. Correct that "
        "function; the same command then continues from the last checkpoint."
    )


def score(outcome: Outcome, weights: Mapping[str, float], config: RewardConfig) -> float:
    """The weighted sum of the reward functions named in `weights` (`settings.verify.rewards`). Raises RewardError."""
    return sum(weight * value_of(name, resolve(name), outcome, config) for name, weight in weights.items())


class Scorer:
    """`score` with everything looked up once, from the `verify` settings. Raises UsageError for an unknown reward."""

    def __init__(self, verify: Any, max_new_tokens: int) -> None:
        self.config = RewardConfig(max_new_tokens, verify.overlong_buffer)
        self.terms = [(name, float(weight), resolve(name)) for name, weight in verify.rewards.items()]

    def __call__(self, text: str, grade: Grade, length: int, finish_reason: str = "stop") -> float:
        return sum(self.parts(text, grade, length, finish_reason).values())

    def parts(self, text: str, grade: Grade, length: int, finish_reason: str = "stop") -> dict[str, float]:
        """Each weighted term by name. Raises RewardError for one that is not finite."""
        outcome = Outcome(text, grade, length, finish_reason)
        return {name: weight * value_of(name, function, outcome, self.config) for name, weight, function in self.terms}
