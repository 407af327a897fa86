"""Group-relative advantages: how much better a response is than the others for the same prompt."""

from typing import Literal

import torch
from torch import Tensor

STD_EPSILON = 1e-6
"""Added to the standard deviation, as GRPO's published implementations do."""

ROUNDING_STEPS = 4
"""Rewards of a group are equal if all lie within this many rounding steps of their dtype from the group's mean.

The same weighted parts summed in another order differ by one or two steps. Dividing by a standard deviation of that
size would turn this noise into a signal: one fp32 step around 1.0 would give an advantage of 0.06."""


def group_advantages(
    rewards: Tensor, normalize: Literal["std", "none", "loo"] = "std", *, std_ddof: Literal[0, 1] = 0
) -> tuple[Tensor, Tensor]:
    """Computes advantages and variances of groups of responses (GRPO, arXiv 2402.03300; Dr.GRPO, 2503.20783; RLOO,
    2402.14740).

        mu_g  = mean_i r_i
        var_g = mean_i (r_i - mu_g)^2                      population variance, from centred values, in fp64
        A_i   = (r_i - mu_g) / (sqrt(var_g) + 1e-6)        "std"   (GRPO)
              = r_i - mu_g                                 "none"  (Dr.GRPO)
              = r_i - mean_{j != i} r_j                    "loo"   (RLOO) = (r_i - mu_g) G / (G - 1)

    A group whose rewards are all equal, up to rounding (`ROUNDING_STEPS`), has variance and advantages of exactly 0.

    Args:
        rewards: [prompts, group], or any [..., group], of any real dtype.
        normalize: one of the three formulas.
        std_ddof: 1 divides "std" by the sample's standard deviation, sqrt(var_g G / (G - 1)), as verl and TRL do. The
            returned variance is the population's in both cases.

    Returns:
        Advantages [prompts, group] and variances [prompts], in the dtype of floating `rewards`, else fp32.

    Raises:
        ValueError: no group dimension, a reward that is not finite, or an unknown `normalize` or `std_ddof`.
    """
    if rewards.dim() == 0 or rewards.shape[-1] == 0:
        raise ValueError(f"rewards must be [prompts, group] with group >= 1, not {list(rewards.shape)}")
    dtype = rewards.dtype if rewards.is_floating_point() else torch.float32
    reward = rewards.detach().double()
    if not bool(torch.isfinite(reward).all()):
        where = (~torch.isfinite(reward)).nonzero()[0].tolist()
        raise ValueError(f"rewards{where} is {reward[tuple(where)].item()}; rewards must be finite numbers")

    # Centred values first: E[r^2] - E[r]^2 would cancel for rewards that differ little.
    centred = reward - reward.mean(-1, keepdim=True)
    # The noise is that of the dtype the rewards came in. fp64 alone cannot tell it from a real difference.
    noise = ROUNDING_STEPS * torch.finfo(dtype).eps * reward.abs().amax(-1, keepdim=True)
    live = centred.abs().amax(-1, keepdim=True) > noise
    centred = torch.where(live, centred, 0.0)
    variance = centred.square().mean(-1)

    group = rewards.shape[-1]
    bessel = group / max(group - 1, 1)  # a group of one has variance 0 under either divisor
    if normalize == "std":
        if std_ddof not in (0, 1):
            raise ValueError(f"std_ddof must be 0 or 1, not {std_ddof!r}")
        std = (variance * (bessel if std_ddof else 1.0)).sqrt()
        advantages = centred / (std[..., None] + STD_EPSILON)
    elif normalize == "none":
        advantages = centred
    elif normalize == "loo":
        advantages = centred * bessel
    else:
        raise ValueError(f"normalize must be std, none or loo, not {normalize!r}")
    return advantages.to(dtype), variance.to(dtype)


def mixed_groups(rewards: Tensor) -> Tensor:
    """Tells which groups have rewards that differ; all advantages of the others are 0.

    These are the groups that DAPO's dynamic sampling keeps (arXiv 2503.14476, equation 11).

    Args:
        rewards: [prompts, group], of any real dtype.

    Returns:
        bool [prompts].
    """
    return group_advantages(rewards)[1] > 0
