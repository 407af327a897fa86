"""Clipped surrogates whose bounds adapt by another published rule than ETR's. The loss is PPO's; the bounds differ.

Each rule starts from the static `eps_low` and `eps_high`. docs/objective.md says where we had to choose.
"""

from typing import Any

import torch
from torch import Tensor

from pipeline.objectives.losses.registry import Bounds, register
from pipeline.objectives.losses.surrogate import token_surrogate
from pipeline.objectives.tokens import Tokens

STEADY_DELTA = 1e-6
"""Added to the standard deviation in FAC's score."""


def adpo_bounds(advantages: Tensor, pass_rate: Tensor, variance: Tensor, config: Any) -> Bounds:
    """ADPO (Agent0, arXiv 2511.16043, and its code): the upper bound is higher for groups that rarely succeed.

    eps_high_g = eps_high + adpo_bonus * clip((0.8 - s) / 0.5, 0, 1)          s: the group's pass rate
    """
    rare = ((0.8 - pass_rate) / 0.5).clamp(0, 1)
    return torch.full_like(rare, config.eps_low), config.eps_high + config.adpo_bonus * rare


def fac_bounds(advantages: Tensor, pass_rate: Tensor, variance: Tensor, config: Any) -> Bounds:
    """Feedback-Adaptive Clipping (APMPO, arXiv 2605.04066): the upper bound is higher where rewards are high and steady.

        FSS        = mean / (std + delta)                            of the group's rewards, on a scale of 0 to 1
        eps_high_g = eps_high + (fac_eps_max - eps_high) * tanh(FSS)

    It falls with the variance, where ETR's macro term rises.
    """
    std = variance.sqrt() / (config.reward_max - config.reward_min)
    steady = torch.tanh(pass_rate / (std + STEADY_DELTA))
    return torch.full_like(steady, config.eps_low), config.eps_high + (config.fac_eps_max - config.eps_high) * steady


def a2tgpo_bounds(advantages: Tensor, pass_rate: Tensor, variance: Tensor, config: Any) -> Bounds:
    """Adaptive turn-level clipping (A2TGPO, arXiv 2605.06200): both bounds grow with the normalised value of a turn.

        c_i = 1 + a2tgpo_beta * (2 sigmoid(x_i) - 1);   eps_low_i = eps_low c_i,   eps_high_i = eps_high c_i

    The paper's x is a turn's normalised information gain. A response here is a single turn, so x is its advantage.
    """
    scale = 1 + config.a2tgpo_beta * (2 * torch.sigmoid(advantages) - 1)
    return config.eps_low * scale, config.eps_high * scale


def dc_grpo_bounds(x: Tokens, config: Any) -> Bounds:
    """DC-GRPO (code for TRL's GRPOTrainer): a token's bounds move by its advantage and its old probability pi.

        delta    = sigmoid(|A|) * q^dc_grpo_gamma                    q = 1 - pi where A > 0, pi elsewhere
        eps_low  = eps_low  - dc_grpo_lambda * delta * sign(A)
        eps_high = eps_high + dc_grpo_lambda * delta * sign(A)

    Rare tokens of good responses may rise further, and frequent tokens of bad ones may fall further.
    """
    probability = x.old_logp.exp()
    q = torch.where(x.advantages > 0, 1 - probability, probability).clamp(0, 1)
    shift = config.dc_grpo_lambda * torch.sigmoid(x.advantages.abs()) * q**config.dc_grpo_gamma * x.advantages.sign()
    return (x.eps_low - shift).clamp(min=0), (x.eps_high + shift).clamp(min=0)


@register("adpo", separable=True, elastic=False, needs_signal=True, needs_entropy=False, response_rule=adpo_bounds)
@register("fac", separable=True, elastic=False, needs_signal=True, needs_entropy=False, response_rule=fac_bounds)
@register("a2tgpo", separable=True, elastic=False, needs_signal=True, needs_entropy=False, response_rule=a2tgpo_bounds)
@register("dc_grpo", separable=True, elastic=False, needs_signal=True, needs_entropy=False, token_bounds=dc_grpo_bounds)
def adaptive_surrogate(x: Tokens, config: Any) -> Tensor:
    """Computes the clipped surrogate with the bounds of the configured rule."""
    return token_surrogate(x, config)
