"""Aggregation as weights: every loss is `sum_t weight_t * token_loss_t`, however the batch is split.

    "token-mean"               weight = 1 / tokens                       (DAPO)
    "seq-mean-token-mean"      weight = 1 / (length_i * sequences)       (GRPO)
    "seq-mean-token-sum-norm"  weight = 1 / (length_norm * sequences)    (Dr.GRPO)

`tokens` and `sequences` count the whole optimizer step over all ranks and micro-batches. Each token counts once, and
sequences without a response do not count. The loss is then the sum over micro-batches and ranks, with no average after.
"""

from typing import Any

import torch
from torch import Tensor

from pipeline.objectives.inputs import PolicyLossInputs
from pipeline.objectives.sequences import Sequences


def denominator(config: Any, *, tokens: float, sequences: float) -> float:
    """Picks the count by which `config.aggregate` divides; for `PolicyLossInputs.denominator`."""
    return tokens if config.aggregate == "token-mean" else sequences


def token_weights(inputs: PolicyLossInputs, mask: Tensor, sequences: Sequences | None, config: Any) -> Tensor:
    """Computes each token's weight: fp64, the shape of `mask`, 0 outside it.

    Raises ValueError if the inputs lack something that the aggregation needs.
    """
    if config.aggregate == "token-mean":
        total = mask.sum() if inputs.denominator is None else inputs.denominator
        return mask.double() / _positive(total, mask)
    if sequences is None:
        raise ValueError(
            f"aggregate={config.aggregate} needs to know each token's sequence: set PolicyLossInputs.sequence if "
            "tokens are packed [T]"
        )
    total = (sequences.lengths() > 0).sum() if inputs.denominator is None else inputs.denominator
    if config.aggregate == "seq-mean-token-mean":
        length = sequences.lengths().clamp(min=1)[sequences.ids]
        return mask.double() / (length * _positive(total, mask))
    if config.aggregate != "seq-mean-token-sum-norm":
        raise ValueError(
            f"aggregate must be token-mean, seq-mean-token-mean or seq-mean-token-sum-norm, not {config.aggregate!r}"
        )
    norm = inputs.length_norm
    if norm is None:
        if mask.dim() == 1 or inputs.sequence is not None:
            raise ValueError(
                "aggregate=seq-mean-token-sum-norm needs the greatest response length: set "
                "PolicyLossInputs.length_norm if tokens are packed [T]"
            )
        norm = mask.shape[-1]
    return mask.double() / (norm * _positive(total, mask))


def _positive(total: Tensor | float, like: Tensor) -> Tensor:
    """`total` as a tensor, at least 1: a step without a token then has loss 0 and not 0 / 0."""
    if not isinstance(total, Tensor):
        return torch.full((), max(float(total), 1.0), dtype=torch.float64, device=like.device)
    return total.to(like.device, torch.float64).clamp(min=1)
