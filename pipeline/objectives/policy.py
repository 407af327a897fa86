"""The policy loss of a micro-batch, with what to log of it."""

from typing import Any

import torch
from torch import Tensor

from pipeline.objectives.batch import prepare, token_loss
from pipeline.objectives.config import as_config
from pipeline.objectives.inputs import as_inputs
from pipeline.objectives.metrics.sums import MetricSums
from pipeline.objectives.metrics.token import token_metrics


def policy_loss(inputs: Any, config: Any = None) -> tuple[Tensor, MetricSums]:
    """loss = sum_t weight_t * token_loss_t

        token_loss = pg * is_weight + kl_coef * kl(logp, ref_logp) - entropy_coef * entropy

    with `pg` of the configured loss (`pipeline.objectives.losses`) and the weights of `config.aggregate`
    (`pipeline.objectives.aggregate`).

    Args:
        inputs: the tokens of one micro-batch: a PolicyLossInputs, or a mapping or any object with some of its fields.
        config: `pipeline.settings.Algo`, or as `pipeline.objectives.config.as_config` says.

    Returns:
        A scalar in the dtype of `logp` (fp32 at least), whose sum over micro-batches and ranks is the step's loss where
        `inputs.denominator` is global; and the metrics' sums, which add up over micro-batches and ranks likewise.
    """
    config = as_config(config)
    inputs = as_inputs(inputs)
    if inputs.logp is None:
        raise ValueError("policy_loss needs `logp`; only prepare() does without")
    tokens = prepare(inputs, config).tokens(inputs.logp, inputs.entropy)
    losses = token_loss(tokens, config)
    loss = (tokens.weight * losses).sum()
    return loss.to(torch.promote_types(inputs.logp.dtype, torch.float32)), token_metrics(tokens, config, losses)
