"""CoDaPO's weight (arXiv 2606.07950) on a static region: the control for whether it is the region that matters."""

from typing import Any

from torch import Tensor

from pipeline.objectives.losses.registry import register
from pipeline.objectives.losses.surrogate import token_surrogate
from pipeline.objectives.tokens import Tokens


def codapo_weight(pass_rate: Tensor, confidence: Tensor, config: Any) -> Tensor:
    """Computes the factor on a group's advantages, as the authors' code does (github.com/tmlr-group/CoDaPO).

        w = c * 4 d (1 - d) + codapo_offset            d = 1 - pass rate;  c = exp(mean log-prob of a token of the group)

    Args:
        pass_rate, confidence: fp64 [prompts], in 0..1. The confidence averages over a response's tokens, then over the
            group's responses.
    """
    difficulty = 1 - pass_rate
    return confidence * 4 * difficulty * (1 - difficulty) + config.codapo_offset


@register("codapo", separable=True, elastic=False, needs_signal=True, needs_entropy=False, group_weight=codapo_weight)
def codapo(x: Tokens, config: Any) -> Tensor:
    """Computes the clipped surrogate; the weight is in the advantages already. CoDaPO's resampling is not part of it."""
    return token_surrogate(x, config)
