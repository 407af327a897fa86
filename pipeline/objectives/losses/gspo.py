"""GSPO (arXiv 2507.18071): the ratio of a whole sequence, the geometric mean of its tokens'."""

from typing import Any

import torch
from torch import Tensor

from pipeline.objectives.losses.registry import register
from pipeline.objectives.losses.surrogate import clipped_surrogate
from pipeline.objectives.tokens import Tokens


def sequence_ratio(x: Tokens) -> Tensor:
    """s_i = exp(mean_t log_ratio_{i,t}), at each of its tokens; no gradient."""
    return x.sequences().mean(x.log_ratio).exp()


@register(
    "gspo", separable=False, elastic=True, needs_signal=True, needs_entropy=False,
    base_bounds=("gspo_eps_low", "gspo_eps_high"), ratio=sequence_ratio,
)  # fmt: skip
def gspo(x: Tokens, config: Any) -> Tensor:
    """The clipped surrogate of the sequence's ratio, in its token form.

    Each token carries `s_i * exp(log_ratio - detached log_ratio)`: of value s_i, and with a gradient that, summed with
    weights that are constant within a sequence, equals that of s_i itself. So no gradient has to cross ranks: only the
    detached sums of a sequence do, where context parallelism has cut it.
    """
    ratio = sequence_ratio(x) * torch.exp(x.log_ratio - x.log_ratio.detach())
    return clipped_surrogate(ratio, x, config)
