"""The objective: advantages, elastic bounds, policy losses and their metrics, as pure tensor functions.

    advantages, variance = group_advantages(rewards, algo.normalize)            # [prompts, group], [prompts]
    eps_low, eps_high    = clip_bounds(advantages, variance, lengths, algo)     # once for the whole rollout batch
    loss, metrics        = policy_loss(PolicyLossInputs(...), algo)             # every micro-batch

A trainer that computes log-probs chunk by chunk calls `prepared = prepare(inputs, algo)` with `logp=None`. It then
calls `policy_loss(prepared.tokens(logp, entropy, where), algo, metrics=False)` for each chunk, or once for all tokens
if the loss is not separable (`losses.of(algo).separable`). Every loss is `sum_t weight_t * token_loss_t`, so the chunks
add up. See docs/objective.md.
"""

from pipeline.objectives import losses
from pipeline.objectives.advantages import group_advantages, mixed_groups
from pipeline.objectives.aggregate import denominator
from pipeline.objectives.bounds import bound_scale, clip_bounds, elastic_bounds, static_bounds
from pipeline.objectives.importance import importance_on, needs_sequences
from pipeline.objectives.inputs import PolicyLossInputs
from pipeline.objectives.metrics.counterfactual import FAMILY, counterfactual_metrics, family_bounds
from pipeline.objectives.metrics.group import group_metrics
from pipeline.objectives.metrics.sums import MetricSums, add_up, finalize
from pipeline.objectives.metrics.token import token_metrics
from pipeline.objectives.policy_loss import policy_loss, token_loss
from pipeline.objectives.prepare import PreparedTokens, prepare
from pipeline.objectives.tokens import Tokens

__all__ = [
    "FAMILY", "MetricSums", "PolicyLossInputs", "PreparedTokens", "Tokens", "add_up", "bound_scale", "clip_bounds",
    "counterfactual_metrics", "denominator", "elastic_bounds", "family_bounds", "finalize", "group_advantages",
    "group_metrics", "importance_on", "losses", "mixed_groups", "needs_sequences", "policy_loss", "prepare", "static_bounds",
    "token_loss", "token_metrics",
]  # fmt: skip
