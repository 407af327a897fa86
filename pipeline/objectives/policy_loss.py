"""The policy loss: the formula that every update minimises, and its metrics.

A caller with all log-probs of a micro-batch calls `policy_loss(inputs, config)`. The trainer gets its log-probs chunk
by chunk from the fused policy head: it calls `prepare(inputs, config)` once, and then `policy_loss` on the tokens of
each chunk. Both add up to the same number, because every loss is a sum over tokens.
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
    """Computes the loss of a micro-batch, or of a chunk of it.

        loss       = sum_t weight_t * token_loss_t
        token_loss = pg * is_weight + kl_coef * kl(logp, ref_logp) - entropy_coef * entropy

    `pg` is that of the configured loss (`pipeline.objectives.losses`). The weights are those of `config.aggregate`
    (`pipeline.objectives.aggregate`).

    Args:
        inputs: the tokens of one micro-batch, `[T]` or `[B, T]`: a PolicyLossInputs, a mapping, or any object with some
            of its fields. Or `Tokens`, as `prepare(...).tokens(...)` returns for a micro-batch or a chunk of it.
        config: `pipeline.settings.Algo`, or anything that `pipeline.objectives.config.as_config` accepts.
        metrics: False leaves the second result empty, for a caller that computes the metrics of all chunks at once.

    Returns:
        The loss, a scalar in the dtype of `logp` (fp32 at least; fp64 for `Tokens`), and the sums of the metrics. Both
        add up over chunks, micro-batches and ranks; the total is the step's loss if `inputs.denominator` is global.

    Raises:
        ValueError: `logp` is missing, shapes do not fit, or something that the configured loss needs is missing.
        UsageError: there is no such loss.
    """
    config = as_config(config)
    dtype = torch.float64
    if isinstance(inputs, Tokens):
        tokens = inputs
    else:
        inputs = as_inputs(inputs)
        if inputs.logp is None:
            raise ValueError("policy_loss needs `logp`: set PolicyLossInputs.logp (only prepare() works without it)")
        tokens = prepare(inputs, config).tokens(inputs.logp, inputs.entropy)
        dtype = torch.promote_types(inputs.logp.dtype, torch.float32)
    each = token_loss(tokens, config)
    weighted = tokens.weight * each
    sums = token_metrics(tokens, config, weighted) if metrics else MetricSums.empty(weighted.device)
    return weighted.sum().to(dtype), sums


def token_loss(x: Tokens, config: Any) -> Tensor:
    """Computes each token's unweighted loss: fp64, the shape of the tokens, 0 where not kept.

    Raises ValueError if `kl_coef` is set and the tokens have no `ref_logp`.
    """
    pg = losses.of(config)(x, config)
    if x.importance is not None:
        pg = pg * x.importance
    loss = pg
    if config.kl_coef:
        if x.ref_logp is None:
            raise ValueError("kl_coef is set and needs `ref_logp`: set PolicyLossInputs.ref_logp, or algo.kl_coef=0")
        loss = loss + config.kl_coef * kl(x.logp, x.ref_logp, config.kl, config.kl_clamp)
    if config.entropy_coef:
        assert x.entropy is not None  # PreparedTokens.tokens raises without it
        loss = loss - config.entropy_coef * x.entropy
    return torch.where(x.keep, loss, 0.0)
