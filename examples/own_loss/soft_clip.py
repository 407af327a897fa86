"""A policy loss of one's own: the gradient fades as the ratio nears its bound, instead of stopping there."""

import torch
from torch import Tensor

from pipeline.objectives.losses import register
from pipeline.objectives.tokens import Tokens
from pipeline.settings import Algo


@register("soft_clip", separable=True)
def soft_clip(x: Tokens, config: Algo) -> Tensor:
    """`-(1 + w tanh((rho - 1) / w)) A`, where w is the token's lower or upper bound. Returns one number a token."""
    width = torch.where(x.ratio > 1, x.eps_high, x.eps_low).clamp(min=1e-6)
    return -(1 + width * torch.tanh((x.ratio - 1) / width)) * x.advantages
