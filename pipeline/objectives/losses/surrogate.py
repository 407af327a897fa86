"""The clipped surrogate: one equation with five names, which differ only in bounds, advantages and aggregation."""

from typing import Any

import torch
from torch import Tensor

from pipeline.objectives.losses.registry import register
from pipeline.objectives.tokens import Tokens


def clipped_surrogate(ratio: Tensor, x: Tokens, config: Any) -> Tensor:
    """Computes PPO's pessimistic bound (arXiv 1707.06347, equation 7) with the bounds of each token's own response, and
    the optional dual clip (arXiv 1912.09729).

        pg = -min(rho * A, clip(rho, 1 - eps_low, 1 + eps_high) * A)
        pg = min(pg, -c * A) where A < 0                       dual clip: a bad token's loss stops growing at c

    Args:
        ratio: rho, fp64 [T] or [B, T]; for GSPO the sequence's ratio at each token.
        x: the tokens, of the same shape.
        config: `dual_clip` is read.

    Returns:
        pg, fp64, of the same shape.
    """
    unclipped = ratio * x.advantages
    clipped = torch.clamp(ratio, 1 - x.eps_low, 1 + x.eps_high) * x.advantages
    pg = -torch.minimum(unclipped, clipped)
    if config.dual_clip is not None:
        pg = torch.where(x.advantages < 0, torch.minimum(pg, -config.dual_clip * x.advantages), pg)
    return pg


# Elastic trust regions: bounds from `elastic_bounds`.
@register("etr", separable=True, elastic=True, needs_signal=True, needs_entropy=False)
# The control: static bounds equal to the mean of ETR's on the batch, for the same alpha and beta.
@register("grpo_matched", separable=True, elastic=True, needs_signal=True, needs_entropy=False, matched=True)
# GRPO (arXiv 2402.03300): static bounds; its preset aggregates by sequence.
@register("grpo", separable=True, elastic=False, needs_signal=True, needs_entropy=False)
# DAPO (arXiv 2503.14476): a higher upper bound and a token mean; its sampling and length shaping are outside the loss.
@register("dapo", separable=True, elastic=False, needs_signal=True, needs_entropy=False)
# Dr.GRPO (arXiv 2503.20783): centred advantages, and sums divided by a constant instead of by lengths.
@register("dr_grpo", separable=True, elastic=False, needs_signal=True, needs_entropy=False)
def token_surrogate(x: Tokens, config: Any) -> Tensor:
    """Computes the surrogate of each token's own ratio."""
    return clipped_surrogate(x.ratio, x, config)
