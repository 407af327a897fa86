"""The terms beside the policy gradient: KL to a reference, and the importance weight of another engine's samples."""

import math
from typing import Any

import torch
from torch import Tensor

from pipeline.objectives.tokens import LOG_RATIO_LIMIT

DEFAULT_CAP = 2.0
"""C of the truncated importance weight where `is_cap` is not set."""


def kl(logp: Tensor, ref_logp: Tensor, kind: str) -> Tensor:
    """Estimates of KL(policy || reference) from the policy's own tokens (Schulman, "Approximating KL divergence").

    d  = clamp(logp - ref_logp, -20, 20)
    k1 = d                       unbiased, may be negative
    k2 = d^2 / 2                 biased, its gradient is the right one
    k3 = exp(-d) + d - 1         unbiased, never negative
    """
    d = torch.clamp(logp - ref_logp, -LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
    if kind == "k1":
        return d
    if kind == "k2":
        return d.square() / 2
    if kind == "k3":
        # expm1 keeps the digits that exp(-d) - 1 loses near d = 0, where nearly all tokens are.
        return torch.expm1(-d) + d
    raise ValueError(f"kl must be k1, k2 or k3, not {kind!r}")


def importance_cap(config: Any, sampled_elsewhere: bool = False) -> float | None:
    """C of the truncated importance weight, or None where it is off.

    `sampled_elsewhere`: the tokens came from another engine than the actor, or from older weights; what
    `is_weight=auto` waits for. A loop that knows it passes `config.model_copy(update={"is_weight": "on"})` on.
    """
    if config.is_weight == "off" or (config.is_weight == "auto" and config.is_cap is None and not sampled_elsewhere):
        return None
    return DEFAULT_CAP if config.is_cap is None else float(config.is_cap)


def importance_weight(gap: Tensor, cap: float) -> Tensor:
    """min(exp(old_logp - rollout_logp), C) from `gap = old_logp - rollout_logp`; detached.

    A token that the engine gave no probability at all (gap +inf) weighs C.
    """
    return gap.detach().clamp(max=math.log(cap)).exp().clamp(max=cap)
