"""A reward of one's own: a short right answer is worth more than a long one, and any short answer more than none."""

from pipeline.verify.rewards import Outcome, RewardConfig


def brief(outcome: Outcome, config: RewardConfig) -> float:
    """1 for an empty response, falling in a straight line to 0 at the longest length; half of it if the answer is wrong."""
    saved = 1 - outcome.length / config.max_length
    return saved if outcome.grade.correct else saved / 2
