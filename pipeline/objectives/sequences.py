"""Sums over the tokens of a sequence, wherever they lie: in rows, end to end, or cut over context-parallel ranks."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Reduce = Callable[[Tensor], Tensor]
"""Sums a tensor [N] over the ranks that share sequences, in place or not, and returns it; no gradient passes."""


@dataclass(frozen=True)
class Sequences:
    """Which sequence each token belongs to."""

    ids: Tensor
    """int64, the shape of the tokens; values 0 .. count - 1."""
    keep: Tensor
    """bool, the shape of the tokens: the response tokens."""
    count: int
    given_lengths: Tensor | None = None
    """[N] response tokens of each sequence over all ranks that share it."""
    reduce: Reduce | None = None

    def sum(self, values: Tensor) -> Tensor:
        """Sums of detached `values` over each sequence's response tokens, fp64 [N], over all ranks that share it."""
        zeros = torch.zeros(self.count, dtype=torch.float64, device=values.device)
        kept = torch.where(self.keep, values.detach().double(), 0.0)
        sums = zeros.index_add(0, self.ids.reshape(-1), kept.reshape(-1))
        return sums if self.reduce is None else self.reduce(sums)

    def lengths(self) -> Tensor:
        """Response tokens of each sequence, fp64 [N]."""
        if self.given_lengths is not None:
            return self.given_lengths.double()
        return self.sum(torch.ones_like(self.keep, dtype=torch.float64))

    def mean(self, values: Tensor) -> Tensor:
        """Each token gets the mean of detached `values` over its sequence; fp64, the shape of the tokens."""
        return (self.sum(values) / self.lengths().clamp(min=1))[self.ids]
