"""The KL term of the loss."""

import torch
from torch import Tensor

from pipeline.objectives.tokens import LOG_RATIO_LIMIT


def kl(logp: Tensor, ref_logp: Tensor, kind: str, limit: float | None = None) -> Tensor:
    """Estimates KL(policy || reference) from the policy's own tokens (Schulman, "Approximating KL divergence", 2020).

        d  = clamp(logp - ref_logp, -20, 20)
        k1 = d                       unbiased, may be negative
        k2 = d^2 / 2                 biased, its gradient is the right one
        k3 = exp(-d) + d - 1         unbiased, never negative

    Args:
        logp, ref_logp: one shape, any floating dtype, in nats. The gradient flows into `logp` alone if `ref_logp` is
            detached, as `prepare` does.
        kind: k1, k2 or k3.
        limit: clamps each estimate to [-limit, limit]; beyond it the gradient is 0. None: no clamp, and k3 reaches
            exp(20) - 21 = 4.9e8.

    Returns:
        One estimate a token, of the shape of `logp`.

    Raises:
        ValueError: an unknown `kind`.
    """
    d = torch.clamp(logp - ref_logp, -LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
    if kind == "k1":
        estimate = d
    elif kind == "k2":
        estimate = d.square() / 2
    elif kind == "k3":
        # expm1 keeps the digits that exp(-d) - 1 loses near d = 0, where nearly all tokens are.
        estimate = torch.expm1(-d) + d
    else:
        raise ValueError(f"kl must be k1, k2 or k3, not {kind!r}")
    return estimate if limit is None else estimate.clamp(-limit, limit)
