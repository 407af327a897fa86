"""BAPO (arXiv 2510.18927): one pair of bounds for an optimizer step, moved until good tokens weigh enough."""

from typing import Any

from torch import Tensor

from pipeline.objectives.losses.registry import register
from pipeline.objectives.losses.surrogate import token_surrogate
from pipeline.objectives.tokens import Tokens

STEP = 0.05
"""Of the search, as in the authors' code."""


def bapo_bounds(ratio: Tensor, advantages: Tensor, config: Any) -> tuple[float, float]:
    """Searches the bounds of one optimizer step, as the authors' code does (github.com/WooooDyy/BAPO).

        share = sum_{A > 0} min(rho, 1 + eps_high) A  /  (the same + sum_{A < 0} max(rho, 1 - eps_low) |A|)

    While the share is below `bapo_target`, eps_low shrinks to `bapo_eps_low_min`; after that eps_high grows to
    `bapo_eps_high_max`. These are shares of the loss's value, so a smaller eps_low never raises the share: if the target is
    missed at the start, eps_low ends at its limit.

    Args:
        ratio, advantages: fp64 [T], all response tokens of the optimizer step, over all ranks.

    Returns:
        `(eps_low, eps_high)`.
    """
    good, bad = advantages > 0, advantages < 0

    def enough(low: float, high: float) -> bool:
        positive = (ratio[good].clamp(max=1 + high) * advantages[good]).sum()
        negative = -(ratio[bad].clamp(min=1 - low) * advantages[bad]).sum()
        return bool(positive >= config.bapo_target * (positive + negative))

    low, high = config.eps_low, config.eps_high
    while low > config.bapo_eps_low_min and not enough(low, high):
        low = max(low - STEP, config.bapo_eps_low_min)
    while high < config.bapo_eps_high_max and not enough(low, high):
        high = min(high + STEP, config.bapo_eps_high_max)
    return low, high


@register(
    "bapo", separable=True, elastic=False, needs_signal=True, needs_entropy=False, minibatch_rule=bapo_bounds
)  # fmt: skip
def bapo(x: Tokens, config: Any) -> Tensor:
    """Computes the clipped surrogate with the bounds of its optimizer step."""
    return token_surrogate(x, config)
