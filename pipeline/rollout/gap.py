"""The gap: how far the rollout engine's log-probs lie from the actor's, for the same tokens."""

import torch

from pipeline.common.errors import UserError
from pipeline.settings import Rollout


class GapError(UserError):
    """The rollout engine and the actor disagree about the same tokens under the same weights."""


def gap_metrics(
    rollout: Rollout,
    old_logp: torch.Tensor,
    rollout_logp: torch.Tensor,
    raw_logp: torch.Tensor,
    same_weights: torch.Tensor | None = None,
) -> dict[str, float]:
    """`gap/checked_mean_exp`: mean exp|engine log-prob - actor log-prob| over the tokens where both are finite, of those that
    were sampled from the actor's weights; of all, without a limit, if there are none.

    Compares log-probs of the sampling distribution. Where top-p or top-k cuts that distribution it compares those of the
    raw policy, which match the actor's at temperature 1 only; at another temperature there is nothing to compare.

    Args:
        old_logp: fp32 [T], the actor's.
        rollout_logp, raw_logp: fp32 [T], the engine's, of the sampling distribution and of the raw policy.
        same_weights: bool [T], the tokens for which both had the same weights; None: all.

    Raises:
        GapError: beyond `rollout.gap_limit`, naming the worst token; or the actor's log-probs are not finite.
    """
    unusable = (~torch.isfinite(old_logp)).nonzero()[:, 0]
    if len(unusable):
        raise GapError(
            f"The actor's log-probs are not finite: {len(unusable)} of {len(old_logp)} response tokens, the first is token "
            f"{int(unusable[0])} of the batch with {float(old_logp[unusable[0]])}. The policy has diverged: its weights or "
            "activations overflow. Continue from an earlier checkpoint with a smaller rl.optimizer.lr."
        )
    whole = rollout.top_p == 1 and rollout.top_k == 0
    if not whole and rollout.temperature != 1:
        return {}
    engine = rollout_logp if whole else raw_logp
    gap = (old_logp - engine).abs()
    alike = torch.ones_like(gap, dtype=torch.bool) if same_weights is None else same_weights
    compared = alike if alike.any() else torch.ones_like(alike)
    finite = gap[compared & torch.isfinite(gap)]
    mean_exp = float(finite.clamp(max=20).exp().mean()) if len(finite) else 1.0
    if alike.any() and mean_exp > rollout.gap_limit:
        worst = int(gap.nan_to_num(torch.inf).where(alike, -1.0).argmax())
        raise GapError(
            f"Engine and actor disagree: mean exp|log-prob gap| is {mean_exp:.3f}, rollout.gap_limit allows "
            f"{rollout.gap_limit}. At response token {worst} of the batch the engine has {float(engine[worst]):.4f}, the "
            f"actor {float(old_logp[worst]):.4f}. Either their weights differ, or the engine computes in a lower precision "
            "than the limit allows."
        )
    return {"gap/checked_mean_exp": mean_exp}


def gap_by_lag(old_logp: torch.Tensor, rollout_logp: torch.Tensor, lags: torch.Tensor) -> dict[str, float]:
    """`gap/lag_<k>_mean`: mean abs(old_logp - rollout_logp) of the tokens whose sampling weights were k steps old, and
    `rollout/lag_<k>_tokens`: their share of the tokens. Empty if no weights were older than the actor's.

    Args:
        old_logp, rollout_logp: fp32 [T], the actor's and the engine's.
        lags: int64 [T], steps between the weights that sampled each token and those that training starts from.
    """
    if not lags.any():
        return {}
    gap = (old_logp - rollout_logp).abs()
    metrics: dict[str, float] = {}
    for lag in lags.unique().tolist():
        finite = gap[(lags == lag) & torch.isfinite(gap)]
        metrics |= {f"rollout/lag_{lag}_tokens": float((lags == lag).double().mean())}
        if len(finite):
            metrics |= {f"gap/lag_{lag}_mean": float(finite.double().mean())}
    return metrics
