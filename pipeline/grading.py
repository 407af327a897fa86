"""Rewards of a step's rollouts: every rank grades a share in its own worker processes, and all get all grades."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from pipeline.objectives import overlong_penalty
from pipeline.rollout.interface import Rollout
from pipeline.settings import Settings
from pipeline.verify import Grade, VerifierPool
from pipeline.verify.rewards import Scorer


@dataclass(frozen=True)
class Graded:
    """Grades of groups of rollouts."""

    grades: list[list[Grade]]
    """[prompts][group]."""
    rewards: torch.Tensor
    """fp64 [prompts, group]: the weighted sum of the configured reward functions."""
    correct: torch.Tensor
    """fp64 [prompts, group]: 1 where the answer is right."""


class Grader:
    """A verifier pool on every rank of a node, its workers shared out among them. A context manager."""

    def __init__(self, settings: Settings):
        self.pool = VerifierPool.from_settings(settings.verify)
        self.score = Scorer(settings)
        self.algo, self.max_new_tokens = settings.algo, settings.rollout.max_new_tokens

    def __enter__(self) -> "Grader":
        return self

    def __exit__(self, *_: Any) -> None:
        self.pool.close()

    def grade(self, groups: list[list[Rollout]]) -> Graded:
        """Grade equally long groups; collective over the world where there is one."""
        rollouts = [rollout for group in groups for rollout in group]
        rank, size = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        mine = rollouts[rank::size]
        grades = self.pool.grade_many([(r.text, r.prompt.gold) for r in mine])
        rewards = [self.score(r.text, g, len(r.token_ids), r.finish_reason) for r, g in zip(mine, grades, strict=True)]
        shares: list[Any] = [(grades, rewards)]
        if size > 1:
            shares = [None] * size
            dist.all_gather_object(shares, (grades, rewards))
        everything: list[Any] = [None] * len(rollouts)
        for k, (some_grades, some_rewards) in enumerate(shares):
            everything[k::size] = list(zip(some_grades, some_rewards, strict=True))
        width = len(groups[0])
        rewards_all = torch.tensor([reward for _, reward in everything], dtype=torch.float64)
        lengths = torch.tensor([len(rollout.token_ids) for rollout in rollouts])
        rewards_all += overlong_penalty(
            lengths, self.max_new_tokens, self.algo.overlong_buffer, self.algo.overlong_penalty
        )
        correct = torch.tensor([grade.correct for grade, _ in everything], dtype=torch.float64)
        table = [[grade for grade, _ in everything[i : i + width]] for i in range(0, len(everything), width)]
        return Graded(table, rewards_all.view(-1, width), correct.view(-1, width))
