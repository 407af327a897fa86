"""Elastic clip bounds: how far a response's token ratios may move, from its advantage and its group's variance.

The idea is from ETR (arXiv 2601.03723). The functional forms are ours: docs/objective.md says what is known about the
paper's. Each form is a named entry of a table, so a further one is one line.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pipeline.objectives import losses
from pipeline.objectives.config import as_config

MICRO: dict[str, Callable[[Tensor], Tensor]] = {"linear": lambda x: x, "sqrt": torch.sqrt, "tanh": torch.tanh}
"""h of |A|: how the bounds follow the size of the advantage."""

MACRO: dict[str, Callable[[Tensor], Tensor]] = {
    "variance": lambda v: 2 * v - 1,
    "std": lambda v: 2 * v.sqrt() - 1,
    "none": torch.zeros_like,
}
"""2 k(v) - 1, where v is the group's variance divided by the greatest possible one. 0 means no macro term."""


def bound_scale(advantages: Tensor, variance: Tensor, config: Any = None) -> Tensor:
    """Computes s_i, the factor on a response's clip bounds; 1 is the static region.

        micro_i = 1 + alpha * (h(|A_i|) - h(1))
        v_g     = clip(var_g / var_max, 0, 1)              var_max = ((r_max - r_min) / 2)^2
        macro_g = 1 + beta * (2 * k(v_g) - 1)
        s_i     = clip(micro_i * macro_g, scale_min, scale_max)
                = 1 for responses that are not of `elastic_side`

    Args:
        advantages: [prompts, group] (or any shape).
        variance: [prompts], [prompts, 1] or the shape of `advantages`.
        config: `alpha beta h k scale_min scale_max elastic_side reward_min reward_max` of `pipeline.settings.Algo`.

    Returns:
        fp64, the shape of `advantages`. All ones for a loss that alpha and beta do not change.

    Raises:
        ValueError: the shape of `variance` fits neither groups nor responses.
    """
    config = as_config(config)
    signed = advantages.detach().double()
    magnitude = signed.abs()
    v = _per_sample(variance.detach().double(), magnitude)
    if not losses.of(config).elastic:
        return torch.ones_like(magnitude)
    h = MICRO[config.h]
    micro = 1 + config.alpha * (h(magnitude) - h(torch.ones_like(magnitude)))
    v = (v / ((config.reward_max - config.reward_min) / 2) ** 2).clamp(0, 1)
    macro = 1 + config.beta * MACRO[config.k](v)
    scale = (micro * macro).clamp(config.scale_min, config.scale_max)
    if config.elastic_side == "both":
        return scale
    return torch.where(signed > 0 if config.elastic_side == "positive" else signed < 0, scale, 1.0)


def static_bounds(config: Any = None) -> tuple[float, float]:
    """Reads `(eps_low, eps_high)` of the algorithm before elasticity; GSPO and CISPO have settings of their own."""
    config = as_config(config)
    base = losses.of(config).base_bounds
    return float(getattr(config, base[0])), float(getattr(config, base[1]))


def elastic_bounds(advantages: Tensor, variance: Tensor, config: Any = None) -> tuple[Tensor, Tensor]:
    """Computes the clip bounds of every response.

        eps_low_i  = min(eps_low * s_i, eps_low_max)       so that 1 - eps_low_i stays positive
        eps_high_i = eps_high * s_i

    With alpha = beta = 0, s_i is exactly 1 and these are GRPO's (or DAPO's) static bounds to the last bit.

    Args: as `bound_scale`; also `eps_low eps_high eps_low_max` of `config` (gspo and cispo: their own eps settings).

    Returns:
        `(eps_low, eps_high)`, each of the shape and floating dtype of `advantages`. For `grpo_matched` these are the
        bounds of the ETR that it is matched to; `clip_bounds` averages them.

    Raises:
        ValueError: as `bound_scale`.
    """
    config = as_config(config)
    low, high = static_bounds(config)
    scale = bound_scale(advantages, variance, config)
    dtype = advantages.dtype if advantages.is_floating_point() else torch.float32
    # The limit never lowers a static eps_low: eps_low=0.95 without elasticity is GRPO with 0.95.
    limit = max(config.eps_low_max, low)
    return (low * scale).clamp(max=limit).to(dtype), (high * scale).to(dtype)


def clip_bounds(
    advantages: Tensor, variance: Tensor, lengths: Tensor, config: Any = None, pass_rate: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Computes the bounds that the configured algorithm trains with. A loop calls it once for a whole rollout batch.

    They are those of `elastic_bounds`, with two exceptions. A loss with a rule of its own (adpo, fac, a2tgpo) gets that
    rule's. `grpo_matched` gets one static pair: the mean over the response tokens of groups with variance. The control
    then has the same average region and differs in elasticity alone.

    Args:
        advantages, variance, config: as `elastic_bounds`.
        lengths: response tokens of each response, the shape of `advantages`, for the whole batch over all ranks.
        pass_rate: [prompts], the groups' mean rewards on a scale of 0 to 1; for losses with a rule of their own.

    Returns:
        `(eps_low, eps_high)`, the shape and dtype of `advantages`.

    Raises:
        ValueError: as `bound_scale`; or `pass_rate` is missing.
    """
    config = as_config(config)
    rule = losses.of(config).response_rule
    if rule is not None:
        return _by_rule(rule, advantages, variance, config, pass_rate)
    low, high = elastic_bounds(advantages, variance, config)
    if not losses.of(config).matched:
        return low, high
    live = _per_sample(variance, advantages) > 0
    tokens = torch.where(live, lengths.reshape(advantages.shape).double(), 0.0)
    return matched(low, tokens), matched(high, tokens)


def _by_rule(
    rule: Any, advantages: Tensor, variance: Tensor, config: Any, pass_rate: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The bounds of a loss with a rule of its own, in the shape and dtype of `advantages`."""
    if pass_rate is None:
        raise ValueError(
            f"the bounds of {losses.of(config).name} need `pass_rate`: give clip_bounds the groups' pass rates"
        )
    rate, spread = (_per_sample(value.detach().double(), advantages) for value in (pass_rate, variance))
    dtype = advantages.dtype if advantages.is_floating_point() else torch.float32
    low, high = rule(advantages.detach().double(), rate, spread, config)
    return low.to(dtype), high.to(dtype)


def matched(eps: Tensor, tokens: Tensor) -> Tensor:
    """Replaces `eps` by its mean with weights `tokens` (same shape); returns it unchanged if all weights are 0."""
    total = tokens.double().sum()
    mean = (eps.double() * tokens).sum() / total.clamp(min=1)
    return torch.where(total > 0, mean, eps.double()).to(eps.dtype)


def _per_sample(variance: Tensor, advantages: Tensor) -> Tensor:
    """Expands `variance`, given by group or by response, to the shape of `advantages`."""
    if variance.dim() == advantages.dim() - 1:
        variance = variance[..., None]
    if variance.dim() != advantages.dim() or any(
        have not in (1, want) for have, want in zip(variance.shape, advantages.shape, strict=True)
    ):
        raise ValueError(
            f"variance {list(variance.shape)} does not fit advantages {list(advantages.shape)}: give one number per "
            "prompt or one per response"
        )
    return variance.expand(advantages.shape)


__all__ = ["MACRO", "MICRO", "bound_scale", "clip_bounds", "elastic_bounds", "matched", "static_bounds"]
