"""ABC-GRPO (arXiv 2601.03895): four bounds, by the sign of the advantage and the side of the ratio, and no minimum."""

from typing import Any

import torch
from torch import Tensor

from pipeline.objectives.losses.registry import Bound, Bounds, register
from pipeline.objectives.tokens import Tokens


def _bounds(x: Tokens, config: Any) -> Bounds:
    """PPO's two bounds, and two more for the tokens that PPO leaves unbounded."""
    return (
        torch.where(x.advantages > 0, config.abc_grpo_eps_low, x.eps_low),
        torch.where(x.advantages < 0, config.abc_grpo_eps_high, x.eps_high),
    )


def _cuts(ratio: Tensor, advantages: Tensor, eps_low: Bound, eps_high: Bound) -> tuple[Tensor, Tensor]:
    """Marks tokens beyond a bound, whichever the sign of their advantage: the clipped ratio has no gradient there."""
    live = advantages != 0
    return live & (ratio < 1 - eps_low), live & (ratio > 1 + eps_high)


@register(
    "abc_grpo", separable=True, elastic=False, needs_signal=True, needs_entropy=False, token_bounds=_bounds, cuts=_cuts
)
def abc_grpo(x: Tokens, config: Any) -> Tensor:
    """Computes pg = -clip(rho, 1 - eps_low, 1 + eps_high) * A with the bounds of the token's quadrant:

    A > 0: abc_grpo_eps_low, eps_high          A < 0: eps_low, abc_grpo_eps_high
    """
    return -torch.clamp(x.ratio, 1 - x.eps_low, 1 + x.eps_high) * x.advantages
