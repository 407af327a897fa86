"""The policy loss: the formula that every update minimises, with what to log of it.

Whoever has a micro-batch's log-probs at hand calls `policy_loss(inputs, config)`. The trainer's log-probs come chunk by
chunk out of the fused policy head: it calls `prepare(inputs, config)` once, and then `policy_loss` on the tokens of each
chunk. Both add up to the same number, because every loss is a sum over tokens.
"""

from typing import Any

import torch
from torch import Tensor

from pipeline.objectives import losses
from pipeline.objectives.config import as_config
from pipeline.objectives.inputs import as_inputs
from pipeline.objectives.metrics.sums import MetricSums
from pipeline.objectives.metrics.token import token_metrics
from pipeline.objectives.prepare import prepare
from pipeline.objectives.terms import kl
from pipeline.objectives.tokens import Tokens


def policy_loss(inputs: Any, config: Any = None, *, metrics: bool = True) -> tuple[Tensor, MetricSums]:
    """loss = sum_t weight_t * token_loss_t

        token_loss = pg * is_weight + kl_coef * kl(logp, ref_logp) - entropy_coef * entropy

    with `pg` of the configured loss (`pipeline.objectives.losses`) and the weights of `config.aggregate`
    (`pipeline.objectives.aggregate`).

    Args:
        inputs: the tokens of one micro-batch: a PolicyLossInputs, a mapping, or any object with some of its fields. Or
            `Tokens`: what `prepare(...).tokens(...)` made of a micro-batch, or of a chunk of it.
        config: `pipeline.settings.Algo`, or as `pipeline.objectives.config.as_config` says.
        metrics: False leaves the second result empty, for whoever takes the metrics of all chunks at once.

    Returns:
        A scalar whose sum over chunks, micro-batches and ranks is the step's loss if `inputs.denominator` is global, in
        the dtype of `logp` (fp32 at least; fp64 for `Tokens`); and the metrics' sums, which add up in the same way.

    Raises:
        ValueError: `logp` is missing, shapes do not fit, or something that the configured loss needs is missing.
    """
    config = as_config(config)
    dtype = torch.float64
    if isinstance(inputs, Tokens):
        tokens = inputs
    else:
        inputs = as_inputs(inputs)
        if inputs.logp is None:
            raise ValueError("policy_loss needs `logp`; only prepare() does without it")
        tokens = prepare(inputs, config).tokens(inputs.logp, inputs.entropy)
        dtype = torch.promote_types(inputs.logp.dtype, torch.float32)
    each = token_loss(tokens, config)
    weighted = tokens.weight * each
    sums = token_metrics(tokens, config, weighted) if metrics else MetricSums.empty(weighted.device)
    return weighted.sum().to(dtype), sums


def token_loss(x: Tokens, config: Any) -> Tensor:
    """Each token's unweighted loss, fp64 of the tokens' shape, 0 where not kept."""
    pg = losses.of(config)(x, config)
    if x.importance is not None:
        pg = pg * x.importance
    loss = pg
    if config.kl_coef:
        if x.ref_logp is None:
            raise ValueError("kl_coef is set: PolicyLossInputs needs `ref_logp`")
        loss = loss + config.kl_coef * kl(x.logp, x.ref_logp, config.kl, config.kl_clamp)
    if config.entropy_coef:
        assert x.entropy is not None  # PreparedTokens.tokens has seen to it
        loss = loss - config.entropy_coef * x.entropy
    return torch.where(x.keep, loss, 0.0)
