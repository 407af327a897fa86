"""Aggregation as weights: every loss is `sum_t weight_t * token_loss_t`, whatever the batch was cut into.

    "token-mean"               weight = 1 / tokens                       (DAPO)
    "seq-mean-token-mean"      weight = 1 / (length_i * sequences)       (GRPO)
    "seq-mean-token-sum-norm"  weight = 1 / (length_norm * sequences)    (Dr.GRPO)

`tokens` and `sequences` count the whole optimizer step over all ranks and micro-batches, each token once, sequences
without a response left out. Sums over micro-batches and ranks are then the right loss, and nothing is averaged after.
"""

from typing import Any

import torch
from torch import Tensor

from pipeline.objectives.inputs import PolicyLossInputs
from pipeline.objectives.sequences import Sequences


def denominator(config: Any, *, tokens: float, sequences: float) -> float:
    """The count by which `config.aggregate` divides; for `PolicyLossInputs.denominator`."""
    return tokens if config.aggregate == "token-mean" else sequences


def token_weights(inputs: PolicyLossInputs, mask: Tensor, sequences: Sequences | None, config: Any) -> Tensor:
    """Each token's weight, fp64 of the shape of `mask`, 0 outside it.

    Raises ValueError where the inputs lack what the aggregation needs.
    """
    if config.aggregate == "token-mean":
        total = mask.sum() if inputs.denominator is None else inputs.denominator
        return mask.double() / _positive(total, mask)
    if sequences is None:
        raise ValueError(f"aggregate={config.aggregate} beside packed tokens [T] needs `sequence` ids")
    total = (sequences.lengths() > 0).sum() if inputs.denominator is None else inputs.denominator
    if config.aggregate == "seq-mean-token-mean":
        length = sequences.lengths().clamp(min=1)[sequences.ids]
        return mask.double() / (length * _positive(total, mask))
    if config.aggregate != "seq-mean-token-sum-norm":
        raise ValueError(f"there is no aggregate {config.aggregate!r}")
    norm = inputs.length_norm
    if norm is None:
        if mask.dim() == 1 or inputs.sequence is not None:
            raise ValueError("aggregate=seq-mean-token-sum-norm beside packed tokens needs `length_norm`")
        norm = mask.shape[-1]
    return mask.double() / (norm * _positive(total, mask))


def _positive(total: Tensor | float, like: Tensor) -> Tensor:
    """At least 1, so that a step without a token has loss 0 and not 0 / 0."""
    if not isinstance(total, Tensor):
        return torch.full((), max(float(total), 1.0), dtype=torch.float64, device=like.device)
    return total.to(like.device, torch.float64).clamp(min=1)
