"""From rewards to experience: advantages and elastic bounds of each group, and what to log of them."""

from typing import Any

import torch

from pipeline.objectives import clip_bounds, group_advantages, group_metrics
from pipeline.rl.experience import Experience
from pipeline.rollout.interface import Rollout
from pipeline.settings import Algo


def judge(algo: Algo, groups: list[list[Rollout]], rewards: torch.Tensor) -> tuple[Experience, dict[str, Any]]:
    """The step's experience without old and reference log-probs, and its group metrics. `rewards` is [prompts, group]."""
    experience = Experience.collect(groups, rewards)
    advantages, variance = group_advantages(rewards, algo.normalize)
    lengths = experience.lengths.view(advantages.shape)
    bounds = clip_bounds(advantages, variance, lengths, algo)
    rate = (rewards.mean(1, keepdim=True) - algo.reward_min) / (algo.reward_max - algo.reward_min)
    experience.pass_rate = rate.expand_as(advantages).reshape(-1).float()
    experience.advantages = advantages.reshape(-1).float()
    experience.eps_low, experience.eps_high = (eps.reshape(-1).float() for eps in bounds)
    metrics = group_metrics(rewards, advantages, variance, lengths, algo, bounds)
    return experience, metrics.finalize()
