"""The O(T) mathematics of the head: the statistics of a row of logits, how parts of a row are merged, and the results.

A part of the vocabulary (a tile on one rank, or one rank's whole shard) gives four numbers per position. They are in
one tensor `[4, N]` of the compute type, so that one collective carries them:

    MAX       m = max_j l_j
    SUM_EXP   S = sum_j exp(l_j - m)
    WEIGHTED  W = sum_j exp(l_j - m) (l_j - m)        for the entropy
    TARGET    l_y if y lies in this part, -inf otherwise

W is centred on the part's own maximum, so that it does not cancel for logits of any size.
"""

from typing import NamedTuple

import torch
from torch import Tensor

MAX, SUM_EXP, WEIGHTED, TARGET = range(4)

FAR_BELOW = -1e4
"""Replaces any larger distance below the maximum. Its exponential is zero, in fp64 too (exp(-746) already is), so no
value changes, and 0 * -inf does not become NaN."""


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """Returns the dtype of logits, statistics and sums: fp64 for fp64, fp32 for everything else."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def empty_parts(count: int, positions: int, like: Tensor) -> Tensor:
    """Makes statistics `[count, 4, positions]` of parts without columns, the neutral element of `merge`.

    They are on the device of `like` and in its compute type.
    """
    parts = like.new_zeros((count, 4, positions), dtype=compute_dtype(like.dtype))
    parts[:, MAX] = torch.finfo(parts.dtype).min
    parts[:, TARGET] = -torch.inf
    return parts


def merge(parts: Tensor) -> Tensor:
    """Merges statistics `[R, 4, N]` of R disjoint parts of the vocabulary into `[4, N]` of their union. R >= 1.

    With M = max_r m_r and d_r = m_r - M:  S = sum_r exp(d_r) S_r,  W = sum_r exp(d_r) (W_r + d_r S_r).
    """
    if parts.shape[0] == 1:
        return parts[0]
    maxima, sums, weighted, targets = parts.unbind(1)
    top = maxima.amax(0)
    below = (maxima - top).clamp_(min=FAR_BELOW)
    scale = below.exp()
    return torch.stack(
        (top, (scale * sums).sum(0), (scale * torch.addcmul(weighted, below, sums)).sum(0), targets.amax(0))
    )


class RowResult(NamedTuple):
    """The results for each position; every field is `[N]`, in the compute type, in nats."""

    logp: Tensor
    """log softmax(l)_y; -inf for a target that is not a real row of the vocabulary."""
    entropy: Tensor
    """-sum_j p_j log p_j."""
    lse: Tensor
    """log sum_j exp(l_j), which turns recomputed logits into probabilities."""


def finish(whole: Tensor) -> RowResult:
    """Computes log-prob, entropy and log-sum-exp from the statistics `[4, N]` of whole rows.

    H = lse - sum_j p_j l_j = log S - W / S, where the maximum cancels.
    """
    top, sums, weighted, target = whole.unbind(0)
    log_sum = sums.log()
    return RowResult((target - top) - log_sum, log_sum - weighted / sums, top + log_sum)
