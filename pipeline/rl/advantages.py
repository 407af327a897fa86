"""From rewards to experience: the advantages and elastic bounds of each group, and what to log of them."""

from typing import Any

import torch

from pipeline.objectives import clip_bounds, group_advantages, group_metrics
from pipeline.rl.experience import Experience, Samples
from pipeline.settings import Algo


def with_advantages(
    algo: Algo,
    samples: Samples,
    rewards: torch.Tensor,
    old_logp: torch.Tensor,
    ref_logp: torch.Tensor | None = None,
) -> tuple[Experience, dict[str, Any]]:
    """The step's experience, and its group metrics (`reward/`, `bounds/`, `length/`).

    Args:
        samples: the groups' N = prompts * group sequences, group by group.
        rewards: fp64 [prompts, group].
        old_logp, ref_logp: fp32 [T], see `Experience`.
    """
    advantages, variance = group_advantages(rewards, algo.normalize, std_ddof=algo.std_ddof)
    lengths = samples.lengths.view(advantages.shape)
    bounds = clip_bounds(advantages, variance, lengths, algo)
    rate = (rewards.mean(1, keepdim=True) - algo.reward_min) / (algo.reward_max - algo.reward_min)
    eps_low, eps_high = (eps.reshape(-1).float() for eps in bounds)
    experience = Experience.of(
        samples,
        advantages=advantages.reshape(-1).float(),
        eps_low=eps_low,
        eps_high=eps_high,
        pass_rate=rate.expand_as(advantages).reshape(-1).float(),
        old_logp=old_logp,
        ref_logp=ref_logp,
    )
    return experience, group_metrics(rewards, advantages, variance, lengths, algo, bounds).finalize()
