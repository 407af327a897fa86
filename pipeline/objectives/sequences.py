"""Sums over the tokens of a sequence, for rows, packed tokens, and sequences split over context-parallel ranks."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Reduce = Callable[[Tensor], Tensor]
"""Sums a tensor [N] over the ranks that share sequences, in place or not, and returns it; no gradient passes."""


@dataclass(frozen=True)
class Sequences:
    """Says which sequence each token belongs to."""

    ids: Tensor
    """int64, the shape of the tokens; values 0 .. count - 1."""
    keep: Tensor
    """bool, the shape of the tokens: those that count, which are response tokens (kept ones in `Tokens.sequences`)."""
    count: int
    """N, the number of sequences; some may have no token here."""
    given_lengths: Tensor | None = None
    """[N] counted tokens of each sequence over all ranks that share it. None: `lengths` counts them."""
    reduce: Reduce | None = None
    """None if no other rank holds tokens of these sequences."""

    def sum(self, values: Tensor) -> Tensor:
        """Sums detached `values` (the shape of the tokens) over each sequence's tokens and ranks: fp64 [N]."""
        zeros = torch.zeros(self.count, dtype=torch.float64, device=values.device)
        kept = torch.where(self.keep, values.detach().double(), 0.0)
        sums = zeros.index_add(0, self.ids.reshape(-1), kept.reshape(-1))
        return sums if self.reduce is None else self.reduce(sums)

    def lengths(self) -> Tensor:
        """Counts the tokens of each sequence: fp64 [N]."""
        if self.given_lengths is not None:
            return self.given_lengths.double()
        return self.sum(torch.ones_like(self.keep, dtype=torch.float64))

    def mean(self, values: Tensor) -> Tensor:
        """Gives each token the mean of detached `values` over its sequence: fp64, the shape of the tokens."""
        return (self.sum(values) / self.lengths().clamp(min=1))[self.ids]
