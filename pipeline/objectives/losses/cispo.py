"""CISPO (MiniMax-M1, arXiv 2506.13585): REINFORCE with a clipped, detached weight, so every token keeps a gradient."""

from typing import Any

import torch
from torch import Tensor

from pipeline.objectives.losses.registry import Bound, register
from pipeline.objectives.tokens import Tokens


def _cuts(ratio: Tensor, advantages: Tensor, eps_low: Bound, eps_high: Bound) -> tuple[Tensor, Tensor]:
    """Marks tokens whose weight is clipped; they keep a gradient. Without an advantage nothing is clipped."""
    return torch.zeros_like(ratio, dtype=torch.bool), (advantages != 0) & (ratio > 1 + eps_high)


@register(
    "cispo", separable=True, elastic=True, needs_signal=True, needs_entropy=False,
    base_bounds=("eps_low", "cispo_eps_high"), cuts=_cuts,
)  # fmt: skip
def cispo(x: Tokens, config: Any) -> Tensor:
    """Computes pg = -stop_gradient(min(rho, 1 + eps_high)) * A * logp (arXiv 2506.13585, equations 4 and 5, without the
    lower bound, which the paper sets so wide that it never acts)."""
    weight = torch.minimum(x.ratio, 1 + x.eps_high).detach()
    return -weight * x.advantages * x.logp
