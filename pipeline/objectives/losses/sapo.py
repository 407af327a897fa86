"""SAPO (arXiv 2511.20347): a gate that closes smoothly as the ratio leaves 1, in place of a clip."""

from typing import Any

import torch
from torch import Tensor

from pipeline.objectives.losses.registry import Bound, register
from pipeline.objectives.tokens import Tokens


def _cuts(ratio: Tensor, advantages: Tensor, eps_low: Bound, eps_high: Bound) -> tuple[Tensor, Tensor]:
    """No token is cut."""
    none = torch.zeros_like(ratio, dtype=torch.bool)
    return none, none


@register("sapo", separable=True, elastic=False, needs_signal=True, needs_entropy=False, cuts=_cuts)
def sapo(x: Tokens, config: Any) -> Tensor:
    """Computes pg = -(4 / tau) sigmoid(tau (rho - 1)) * A, tau = sapo_tau_positive where A > 0, else sapo_tau_negative.

    The gradient by the ratio is -4 g (1 - g) A with g the sigmoid: -A at rho = 1, less on either side.
    """
    positive = (x.advantages > 0).double()
    tau = positive * config.sapo_tau_positive + (1 - positive) * config.sapo_tau_negative
    return -4 / tau * torch.sigmoid(tau * (x.ratio - 1)) * x.advantages
