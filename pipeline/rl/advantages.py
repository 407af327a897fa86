"""From rewards to the signal that an update learns from: advantages and clip bounds, and what to log of them."""

from typing import Any

import torch

from pipeline.objectives import clip_bounds, family_bounds, group_advantages, group_metrics, losses
from pipeline.rl.experience import Samples, Signal
from pipeline.settings import Algo


def advantages_of(
    algo: Algo, samples: Samples, rewards: torch.Tensor, counterfactual: bool = False
) -> tuple[Signal, dict[str, Any]]:
    """The step's signal, and its group metrics (`reward/`, `bounds/`, `length/`).

    Args:
        samples: all N = prompts * group sequences of the step, group by group.
        rewards: fp64 [prompts, group].
        counterfactual: also compute the bounds of every other algorithm of the family (`rl.counterfactual`).
    """
    advantages, variance = group_advantages(rewards, algo.normalize, std_ddof=algo.std_ddof)
    lengths = samples.lengths.view(advantages.shape)
    rate = (rewards.mean(1) - algo.reward_min) / (algo.reward_max - algo.reward_min)
    bounds = clip_bounds(advantages, variance, lengths, algo, rate)
    weight = losses.of(algo).group_weight
    weighted = (
        advantages if weight is None else advantages * weight(rate, confidence_of(samples, len(rate)), algo)[:, None]
    )
    eps_low, eps_high = (eps.reshape(-1).float() for eps in bounds)
    signal = Signal(
        advantages=weighted.reshape(-1).float(),
        eps_low=eps_low,
        eps_high=eps_high,
        pass_rate=rate[:, None].expand_as(advantages).reshape(-1).float(),
        lengths=lengths.reshape(-1),
        group_size=advantages.shape[-1],
        family=family_bounds(advantages, variance, lengths, algo, rate) if counterfactual else None,
    )
    return signal, group_metrics(rewards, advantages, variance, lengths, algo, bounds).finalize()


def confidence_of(samples: Samples, prompts: int) -> torch.Tensor:
    """exp of the mean log-prob of a group's tokens under the weights that sampled them, at temperature 1: fp64 [prompts].
    The mean is over a response's tokens first, then over the group's responses; an empty response counts as 0."""
    owner = torch.arange(len(samples)).repeat_interleave(samples.lengths)
    sums = torch.zeros(len(samples), dtype=torch.float64).index_add(0, owner, samples.raw_logp.double())
    return (sums / samples.lengths.clamp(min=1)).view(prompts, -1).mean(1).exp()
