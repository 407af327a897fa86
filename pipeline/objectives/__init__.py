"""The objective: advantages, elastic bounds, policy losses and their metrics, as pure tensor functions.

    advantages, variance = group_advantages(rewards, algo.normalize)            # [prompts, group], [prompts]
    eps_low, eps_high    = clip_bounds(advantages, variance, lengths, algo)     # once for the whole rollout batch
    loss, metrics        = policy_loss(PolicyLossInputs(...), algo)             # every micro-batch

Every loss is `sum_t weight_t * token_loss_t`. A trainer whose log-probs come chunk by chunk makes
`batch = prepare(inputs, algo)` with `logp=None`, sums `batch.share(logp, entropy, where)` over the chunks where
`losses.of(algo).separable` (over the whole otherwise), and takes `token_metrics(batch.tokens(logp, entropy), algo)`.
`policy_loss` is these calls. See docs/objective.md.
"""

from pipeline.objectives import losses
from pipeline.objectives.advantages import group_advantages, mixed_groups
from pipeline.objectives.aggregate import denominator
from pipeline.objectives.batch import Batch, prepare, token_loss
from pipeline.objectives.bounds import bound_scale, clip_bounds, elastic_bounds, static_bounds
from pipeline.objectives.inputs import PolicyLossInputs
from pipeline.objectives.metrics.group import group_metrics
from pipeline.objectives.metrics.sums import MetricSums, add_up, finalize
from pipeline.objectives.metrics.token import token_metrics
from pipeline.objectives.policy import policy_loss
from pipeline.objectives.terms import importance_cap
from pipeline.objectives.tokens import Tokens

__all__ = [
    "Batch", "MetricSums", "PolicyLossInputs", "Tokens", "add_up", "bound_scale", "clip_bounds", "denominator",
    "elastic_bounds", "finalize", "group_advantages", "group_metrics", "importance_cap", "losses", "mixed_groups",
    "policy_loss", "prepare", "static_bounds", "token_loss", "token_metrics",
]  # fmt: skip
