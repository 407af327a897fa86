"""Importance weights: a correction for tokens that another policy sampled than the one the update starts from.

With the gap g_t = old_logp - rollout_logp of token t, the ratio of a token is rho_t = exp(g_t), and that of a response is
rho(y) = exp(sum_t g_t). `algo.is_form` chooses the weight:

    tis           min(rho_t, C)
    icepop        rho_t if F <= rho_t <= C, else 0
    token_mis     rho_t if rho_t <= C, else 0
    sequence_mis  rho(y) if rho(y) <= C, else 0, for each token of y

C is `algo.is_cap` and F is `algo.is_floor`. Weights are detached and multiply the surrogate alone. A token of weight 0 is
masked: its surrogate and its gradient are exactly 0. It still counts in the loss's denominator (docs/objective.md says why).
"""

from typing import Any

import torch
from torch import Tensor

from pipeline.objectives.sequences import Sequences
from pipeline.settings.algo import importance_cap


def importance_on(config: Any, sampled_elsewhere: bool = False) -> bool:
    """Whether the weight is on.

    `sampled_elsewhere`: the tokens came from another engine than the actor, or from older weights. `is_weight=auto`
    then turns the weight on. A loop that knows this passes `config.model_copy(update={"is_weight": "on"})` to the loss.
    """
    asked_for = config.is_cap is not None or config.is_form != "tis"
    return config.is_weight == "on" or (config.is_weight == "auto" and (asked_for or sampled_elsewhere))


def needs_sequences(config: Any) -> bool:
    """Whether a token's weight follows from its whole response, so that old log-probs are needed before the forward."""
    return importance_on(config) and config.is_form == "sequence_mis"


def importance_weight(gap: Tensor, config: Any, sequences: Sequences | None = None) -> Tensor:
    """Computes the weight of `config.is_form`, in the shape and dtype of `gap`; detached.

    Args:
        gap: old_logp - rollout_logp. A NaN stays one (with sequence_mis at all tokens of its response); +inf, a token to
            which the engine gave probability 0, is truncated or masked.
        sequences: of these tokens; needed for sequence_mis.
    """
    gap = gap.detach()
    cap = importance_cap(config.is_form, config.is_cap)
    if config.is_form == "icepop":
        return icepop(gap, config.is_floor, cap)
    if config.is_form == "token_mis":
        return token_mis(gap, cap)
    if config.is_form == "sequence_mis":
        assert sequences is not None  # prepare raises without them
        return sequence_mis(gap, sequences, cap)
    return tis(gap, cap)


def tis(gap: Tensor, cap: float) -> Tensor:
    """Truncated importance sampling (Ionides, 2008; for rollout engines: Yao et al., "Your efficient RL framework secretly
    brings you off-policy RL training", 2025)."""
    return gap.exp().clamp(max=cap)


def icepop(gap: Tensor, floor: float, cap: float) -> Tensor:
    """IcePop (Ling Team, "Every Step Evolves", arXiv 2510.18855, 2025): masks tokens on which the two policies differ by too
    large a factor in either direction."""
    ratio = gap.exp()
    return torch.where((ratio < floor) | (ratio > cap), 0.0, ratio)


def token_mis(gap: Tensor, cap: float) -> Tensor:
    """Masked importance sampling by token (Liu, Li et al., "When Speed Kills Stability", 2025): masks where TIS truncates."""
    ratio = gap.exp()
    return torch.where(ratio > cap, 0.0, ratio)


def sequence_mis(gap: Tensor, sequences: Sequences, cap: float) -> Tensor:
    """Masked importance sampling by sequence (Liu, Li et al., 2025): one weight for a whole response."""
    ratio = sequences.sum(gap).exp()[sequences.ids]
    return torch.where(ratio > cap, 0.0, ratio)
