"""One rank's rows of the output weight, and the head's three collectives over the tensor-parallel group."""

from dataclasses import dataclass

import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class VocabShard:
    """Rows `[first, first + rows)` of the vocabulary, real tokens only.

    The weight `[V_padded / TP, H]` of rank r starts at row `r * V_padded / TP`, as in megatron-core's
    `VocabUtility.vocab_range_from_global_vocab_size` (core/tensor_parallel/utils.py). Rows at or above the real
    vocabulary size are padding. They are never multiplied, so they have probability 0 and a zero gradient.
    """

    group: dist.ProcessGroup | None
    first: int
    rows: int

    @classmethod
    def of(cls, weight: Tensor, group: dist.ProcessGroup | None, vocab_size: int | None) -> "VocabShard":
        """Finds this rank's shard. Raises ValueError if `vocab_size` is not in 1..V_padded."""
        size, rank = group_size(group), 0 if group is None else dist.get_rank(group)
        padded = weight.shape[0] * size
        real = padded if vocab_size is None else vocab_size
        if not 1 <= real <= padded:
            raise ValueError(f"vocab_size={real} must lie in 1..{padded}, the rows of the (padded) output weight")
        first = rank * weight.shape[0]
        return cls(group, first, min(max(real - first, 0), weight.shape[0]))

    def tiles(self, size: int) -> list[tuple[int, int]]:
        """Splits the local rows into ranges of at most `size` rows; there are none on a rank with only padding."""
        return even_ranges(self.rows, size)


def even_ranges(total: int, size: int) -> list[tuple[int, int]]:
    """Splits `0..total-1` into the fewest ranges `[lo, hi)` of at most `size`.

    All but the last have one length. It is a multiple of 64 if `size` allows it, so that rows start on a cache line.
    """
    step = -(-total // max(-(-total // size), 1))
    aligned = -(-step // 64) * 64
    step = max(aligned if aligned <= size else step, 1)
    return [(lo, min(lo + step, total)) for lo in range(0, total, step)]


def group_size(group: dist.ProcessGroup | None) -> int:
    """Returns the number of ranks in the group; None means a single process."""
    return 1 if group is None else dist.get_world_size(group)


def gather_parts(part: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    """Gathers every rank's statistics: `[4, N]` -> `[TP, 4, N]`, the same bits on every rank.

    One all-gather replaces a MAX and then a SUM all-reduce. O(T) numbers are cheap, and round trips are not. Every rank
    then merges the same numbers in the same order, so log-probs, and with them the loss's clipping, cannot differ
    between ranks.
    """
    size = group_size(group)
    if size == 1 or part.numel() == 0:
        return part.unsqueeze(0)
    gathered = part.new_empty((size * part.shape[0], part.shape[1]))
    dist.all_gather_single(gathered, part.contiguous(), group=group)
    return gathered.view(size, *part.shape)


def gather_sequence(hidden: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    """Gathers sequence-parallel hidden states: `[T / TP, H]` -> `[T, H]`."""
    size = group_size(group)
    if size == 1 or hidden.numel() == 0:
        return hidden
    gathered = hidden.new_empty((size * hidden.shape[0], hidden.shape[1]))
    dist.all_gather_single(gathered, hidden.contiguous(), group=group)
    return gathered


def sum_over_ranks(rows: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    """Sums the ranks' parts of a gradient `[N, H]` in place; every rank gets the whole, as in ColumnParallelLinear."""
    if group_size(group) > 1 and rows.numel() > 0:
        dist.all_reduce(rows, group=group)
    return rows


def scatter_sum(rows: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    """Sums the ranks' parts of a gradient `[T, H]`; every rank gets its own `[T / TP, H]` (sequence parallelism)."""
    own = rows.new_empty((rows.shape[0] // group_size(group), rows.shape[1]))
    dist.reduce_scatter_single(own, rows, group=group)
    return own
