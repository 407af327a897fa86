"""Metrics of groups and responses: rewards, lengths, and elastic bounds."""

from typing import Any

import torch
from torch import Tensor

from pipeline.objectives.bounds import bound_scale, elastic_bounds, static_bounds
from pipeline.objectives.config import as_config
from pipeline.objectives.metrics.bins import Bins
from pipeline.objectives.metrics.sums import Field, MetricSums, SumsBuilder


@torch.no_grad()
def group_metrics(
    rewards: Tensor,
    advantages: Tensor,
    variance: Tensor,
    lengths: Tensor,
    config: Any = None,
    bounds: tuple[Tensor, Tensor] | None = None,
) -> MetricSums:
    """Computes sums over groups and responses. A rank that holds the whole rollout batch must not reduce them.

    Args:
        rewards, advantages: [prompts, group], any real dtype.
        lengths: [prompts, group], response tokens.
        variance: [prompts], the population variance of each group's rewards.
        config: `pipeline.settings.Algo`.
        bounds: the `(eps_low, eps_high)` of training (`clip_bounds`), each [prompts, group]. None: `elastic_bounds`.

    Returns:
        The sums; docs/objective.md explains the names.

    Raises:
        ValueError: the shape of `variance` does not fit.
    """
    config = as_config(config)
    out = SumsBuilder()
    reward = rewards.double()
    scale = bound_scale(advantages, variance, config)
    eps_low, eps_high = elastic_bounds(advantages, variance, config) if bounds is None else bounds
    everything = torch.ones_like(scale, dtype=torch.bool)

    # Variance is exactly 0 if rewards are equal (group_advantages), so == 0 is the test. Whether such a group is all
    # right or all wrong depends on the reward range, since rewards need not be 0 and 1.
    flat = variance.reshape(-1) == 0
    mean = reward.mean(-1).reshape(-1)
    middle = (config.reward_min + config.reward_max) / 2
    out.rows({"groups": torch.ones_like(mean)}, per="")
    out.rows(
        {
            "reward/zero_variance_groups": flat,
            "reward/all_right_groups": flat & (mean > middle),
            "reward/all_wrong_groups": flat & (mean <= middle),
        },
        per="groups",
    )
    # "live" means weighted by the tokens that a gradient comes from: the mean that grpo_matched trains with.
    live = (variance[..., None] > 0).expand_as(lengths)
    out.rows({"responses": everything, "live_tokens": lengths * live}, per="")
    out.rows(
        {
            "reward/mean": reward,
            "length/mean": lengths,
            "length/empty": lengths == 0,
            "bounds/scale_mean": scale,
            "bounds/eps_low_mean": eps_low,
            "bounds/eps_high_mean": eps_high,
            "bounds/scale_at_min": scale <= config.scale_min,
            "bounds/scale_at_max": scale >= config.scale_max,
        },
        per="responses",
    )
    out.rows(
        {
            "bounds/eps_low_live_mean": eps_low * lengths * live,
            "bounds/eps_high_live_mean": eps_high * lengths * live,
        },
        per="live_tokens",
    )
    # Lengths are named length/min, bounds bounds/scale_min: hence the two ways to join.
    for name, values in {
        "bounds/scale": scale,
        "bounds/eps_low": eps_low,
        "bounds/eps_high": eps_high,
        "length/": lengths,
    }.items():
        join = "" if name.endswith("/") else "_"
        out.lowest(f"{name}{join}min", values, everything)
        out.highest(f"{name}{join}max", values, everything)
    # Edges depend on the settings alone, so that histograms of different steps can be compared.
    low, high = static_bounds(config)
    smallest, greatest = config.scale_min, config.scale_max
    for name, values, base in (("scale", scale, 1.0), ("eps_low", eps_low, low), ("eps_high", eps_high, high)):
        bins = Bins(base * smallest, base * max(greatest, smallest * 1.001), 24, "log")
        out.add(Field(name, bins=bins), bins.counts(values, everything))
    return out.pack()
