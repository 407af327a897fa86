"""GSPO (arXiv 2507.18071): the ratio of a whole sequence, which is the geometric mean of its tokens' ratios."""

from typing import Any

import torch
from torch import Tensor

from pipeline.objectives.losses.registry import register
from pipeline.objectives.losses.surrogate import clipped_surrogate
from pipeline.objectives.tokens import Tokens


def sequence_ratio(x: Tokens) -> Tensor:
    """Computes s_i = exp(mean_t log_ratio_{i,t}) over the kept tokens, repeated at each token of the sequence; no
    gradient."""
    return x.sequences().mean(x.log_ratio).exp()


@register(
    "gspo", separable=False, elastic=True, needs_signal=True, needs_entropy=False,
    base_bounds=("gspo_eps_low", "gspo_eps_high"), ratio=sequence_ratio,
)  # fmt: skip
def gspo(x: Tokens, config: Any) -> Tensor:
    """Computes the clipped surrogate of the sequence's ratio, in its token form (GSPO-token, section 4.3).

    Each token carries `s_i * exp(log_ratio - detached log_ratio)`. Its value is s_i. Its gradient, summed over a
    sequence with constant weights, is that of s_i. If context parallelism splits a sequence, ranks therefore exchange
    detached sums only, and no gradient.
    """
    ratio = sequence_ratio(x) * torch.exp(x.log_ratio - x.log_ratio.detach())
    return clipped_surrogate(ratio, x, config)
