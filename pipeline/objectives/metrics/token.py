"""Metrics of a micro-batch's tokens: clipping, policy change, and the gap between rollout engine and trainer."""

from typing import Any

import torch
from torch import Tensor

from pipeline.objectives import losses
from pipeline.objectives.bounds import static_bounds
from pipeline.objectives.metrics.bins import Bins
from pipeline.objectives.metrics.sums import Field, MetricSums, SumsBuilder
from pipeline.objectives.tokens import LOG_RATIO_LIMIT, Tokens

PASS_RATE_BINS = 5
"""Clipping is broken down by the group's pass rate: 0-.2, .2-.4, ... .8-1."""
LOG_RATIO = Bins(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT, 240, "signed_log")
"""Bins of log-ratios, 16 per decade on either side of 0: a median then needs counts, and no tokens, of other ranks."""
KL3 = Bins(1e-14, 1e9, 230, "log")
"""Bins of k3, 10 per decade."""


@torch.no_grad()
def token_metrics(x: Tokens, config: Any, weighted_loss: Tensor) -> MetricSums:
    """Computes sums over the response tokens of a micro-batch, which add up over micro-batches and ranks.

    Args:
        x: the tokens that the loss was computed from, [T] or [B, T].
        config: the config of the loss.
        weighted_loss: each token's part of the loss, fp64, the shape of the tokens.

    Returns:
        The sums; docs/objective.md explains the names. Nothing here synchronises with the device.
    """
    out = SumsBuilder()
    keep, ratio, log_ratio = x.keep, x.ratio, x.log_ratio
    live = x.advantages != 0

    # Both pairs of bounds are applied to the same tokens, so that their difference is elasticity and nothing else.
    objective = losses.of(config)
    bounded = objective.ratio(x)
    cut_low, cut_high = objective.cuts(bounded, x.advantages, x.eps_low, x.eps_high)
    static_low, static_high = objective.cuts(bounded, x.advantages, *static_bounds(config))
    clip = {
        "clip/low": cut_low & keep,
        "clip/high": cut_high & keep,
        "clip/static_low": static_low & keep,
        "clip/static_high": static_high & keep,
        "clip/differs_from_static": ((cut_low != static_low) | (cut_high != static_high)) & keep,
    }
    if config.dual_clip is not None:
        clip["clip/dual"] = (x.advantages < 0) & (bounded > config.dual_clip) & keep

    # KL(old, current) from samples of old, so d = -log_ratio in the formulas of `terms.kl`. Entries outside `keep` must
    # be 0, since rows are summed whole: log_ratio and entropy are already, a ratio there is 1.
    kl_old_k3 = torch.expm1(log_ratio) - log_ratio
    policy = {
        "policy/ratio_mean": torch.where(keep, ratio, 0.0),
        "policy/kl_old_k1": -log_ratio,
        "policy/kl_old_k3": torch.where(keep, kl_old_k3, 0.0),
        "bounds/eps_low_token_mean": x.eps_low * keep,
        "bounds/eps_high_token_mean": x.eps_high * keep,
    }
    if x.entropy is not None:
        policy["policy/entropy"] = x.entropy
    if x.ref_logp is not None:
        # With kl_coef = 0 a reference log-prob may be NaN at a kept token: it must not spoil the sum.
        d = torch.where(keep, x.logp - x.ref_logp, 0.0).nan_to_num(0.0).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
        policy |= {"policy/kl_ref_k1": d, "policy/kl_ref_k3": torch.expm1(-d) + d}
    if x.importance is not None and x.gap is not None:
        # A kept token's gap is no NaN, but it may be infinite.
        sampled = torch.where(keep, x.gap, 0.0).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp()
        policy["gap/is_weight"] = torch.where(keep, x.importance, 0.0)
        policy["gap/ratio_mean"] = torch.where(keep, sampled, 0.0)
        if config.is_form != "tis":
            policy["gap/masked"] = keep & (x.importance == 0)
        out.lowest("gap/ratio_min", sampled, keep)
        out.highest("gap/ratio_max", sampled, keep)

    # The counts that divide the rows below; dropped tokens are in neither. Sequences that the update leaves out (`left_out`)
    # are added to the first count only: nothing of them is clipped, and their ratios are not known.
    out.rows({"tokens": keep, "trained_tokens": keep}, per="")
    out.rows(clip | {"policy/live_tokens": live & keep}, per="tokens")
    out.rows(policy, per="trained_tokens")
    out.rows({"policy/loss": weighted_loss}, per="update")
    out.rows(
        {
            "policy/nonfinite_tokens": x.dropped,
            "policy/clamped_tokens": keep & (log_ratio.abs() >= LOG_RATIO_LIMIT),
        },
        per="",
    )
    out.lowest("policy/ratio_min", ratio, keep)
    out.highest("policy/ratio_max", ratio, keep)
    out.add(
        Field("log_ratio", bins=LOG_RATIO, median="policy/ratio_median", exp=True), LOG_RATIO.counts(log_ratio, keep)
    )
    out.add(Field("kl_old_k3", bins=KL3, median="policy/kl_old_k3_median"), KL3.counts(kl_old_k3, keep))

    # The gap is of the two engines, and not of the current policy: tokens dropped by the loss count in it.
    if x.gap is not None:
        _gap(out, x.gap, x.keep | x.dropped)
    if x.pass_rate is not None:
        _by_pass_rate(out, clip, keep, x.pass_rate)
    return out.pack()


def _gap(out: SumsBuilder, gap: Tensor, mask: Tensor) -> None:
    """Adds the differences between rollout engine and trainer in the log-probs of the same tokens."""
    finite = mask & torch.isfinite(gap)
    size = torch.where(finite, gap.abs(), 0.0)
    out.rows({"gap_tokens": finite}, per="")
    out.rows(
        {
            "gap/mean": size,
            "gap/mean_exp": torch.where(finite, size.clamp(max=LOG_RATIO_LIMIT).exp(), 0.0),
        },
        per="gap_tokens",
    )
    out.rows({"gap/nonfinite_tokens": mask & ~finite}, per="")
    out.highest("gap/max", size, finite)


def left_out(lengths: Tensor, pass_rate: Tensor) -> dict[str, float]:
    """Counts of the tokens of sequences that an update leaves out because their loss is 0: for `MetricSums.add_counts`.

    Args:
        lengths: int64 [n], response tokens of each.
        pass_rate: [n].
    """
    counts = {"tokens": float(lengths.sum())}
    for i, tokens in enumerate(torch.bincount(_bin_of(pass_rate), lengths.double(), PASS_RATE_BINS).tolist()):
        counts[f"tokens_{label_of(i)}"] = tokens
    return counts


def _bin_of(pass_rate: Tensor) -> Tensor:
    """int64 [n]: which of the bins."""
    return (pass_rate.reshape(-1) * PASS_RATE_BINS).nan_to_num(0.0).clamp(0, PASS_RATE_BINS - 1).long()


def label_of(i: int) -> str:
    """Of a bin of pass rates: 0.2-0.4."""
    return f"{i / PASS_RATE_BINS:.1f}-{(i + 1) / PASS_RATE_BINS:.1f}"


def members_of(pass_rate: Tensor, keep: Tensor) -> Tensor:
    """fp64 [bins, T]: 1 where a kept token is of a group in that bin of pass rates."""
    bins = torch.arange(PASS_RATE_BINS, device=keep.device)[:, None]
    return ((_bin_of(pass_rate) == bins) & keep.reshape(-1)).double()


def _by_pass_rate(out: SumsBuilder, clip: dict[str, Tensor], keep: Tensor, pass_rate: Tensor) -> None:
    """Adds the share of clipped tokens in each bin of the group's pass rate."""
    member = members_of(pass_rate, keep)
    rows = torch.stack([keep.reshape(-1), clip["clip/low"].reshape(-1), clip["clip/high"].reshape(-1)]).double()
    totals = rows @ member.T  # [3, bins]; one product instead of a mask per bin, and no boolean index (it would sync)
    for i in range(PASS_RATE_BINS):
        label = label_of(i)
        out.add(Field(f"tokens_{label}"), totals[0, i])
        out.add(Field(f"clip/low_pass_rate_{label}", per=f"tokens_{label}"), totals[1, i])
        out.add(Field(f"clip/high_pass_rate_{label}", per=f"tokens_{label}"), totals[2, i])
