"""From rewards to the signal that an update learns from: advantages and elastic bounds, and what to log of them."""

from typing import Any

import torch

from pipeline.objectives import clip_bounds, group_advantages, group_metrics
from pipeline.rl.experience import Signal
from pipeline.settings import Algo


def advantages_of(algo: Algo, lengths: torch.Tensor, rewards: torch.Tensor) -> tuple[Signal, dict[str, Any]]:
    """The step's signal, and its group metrics (`reward/`, `bounds/`, `length/`).

    Args:
        lengths: int64 [N], response tokens of N = prompts * group sequences, group by group.
        rewards: fp64 [prompts, group].
    """
    advantages, variance = group_advantages(rewards, algo.normalize, std_ddof=algo.std_ddof)
    lengths = lengths.view(advantages.shape)
    bounds = clip_bounds(advantages, variance, lengths, algo)
    rate = (rewards.mean(1, keepdim=True) - algo.reward_min) / (algo.reward_max - algo.reward_min)
    eps_low, eps_high = (eps.reshape(-1).float() for eps in bounds)
    signal = Signal(
        advantages=advantages.reshape(-1).float(),
        eps_low=eps_low,
        eps_high=eps_high,
        pass_rate=rate.expand_as(advantages).reshape(-1).float(),
        lengths=lengths.reshape(-1),
        group_size=advantages.shape[-1],
    )
    return signal, group_metrics(rewards, advantages, variance, lengths, algo, bounds).finalize()
