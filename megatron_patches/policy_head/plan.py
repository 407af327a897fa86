"""What one call of the head was asked to do, checked once, and how its positions are walked over."""

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from megatron_patches.policy_head.backend import TorchBackend
from megatron_patches.policy_head.selection import select
from megatron_patches.policy_head.shard import (
    VocabShard,
    even_ranges,
    group_size,
    scatter_sum,
    sum_over_ranks,
)
from megatron_patches.policy_head.statistics import compute_dtype

FUSED_LOGITS_BYTES = 640 << 20
"""What the logits of one chunk may take in the fused mode on CUDA."""


def default_tile(device: torch.device, rows: int, fused: bool) -> tuple[int, int]:
    """Positions and vocabulary rows of a tile, where the caller leaves them open.

    `rows`: of a rank's shard with its padding, the same on all ranks, which must cut the positions alike.

    On CPU a tile of fp32 logits beside its rows of the weight has to fit into the last-level cache (8 + 16 MB at
    H = 1,024), and the positions of a fused chunk do not depend on the number of ranks, so that its memory falls with
    it. On CUDA every product adds into fp32 sums of the gradients, whose traffic is worth 4 / positions and 4 / rows
    bytes an operation: both sides have to be long to keep the product bound by arithmetic.
    """
    if device.type == "cpu":
        return (256 if fused else 512), 4096
    if not fused:
        return 4096, 8192
    return min(max(FUSED_LOGITS_BYTES // (4 * max(rows, 1)) // 128 * 128, 256), 4096), 8192


@dataclass(frozen=True, eq=False)
class Plan:
    """The settings of one call, without its tensors."""

    shard: VocabShard
    backend: TorchBackend
    dtype: torch.dtype
    """Type of logits, statistics and sums."""
    positions: Tensor | None
    """Long `[N]` positions to look at; None: all."""
    total: int
    """T."""
    chunk_tokens: int
    chunk_vocab: int
    scale: float
    """1 / temperature."""
    need_entropy: bool
    entropy_grad: bool
    sequence_parallel: bool

    @property
    def count(self) -> int:
        """N, the number of positions that are looked at."""
        return self.total if self.positions is None else self.positions.shape[0]

    def chunks(self) -> list[tuple[int, int]]:
        """Ranges of the N positions, of at most `chunk_tokens`."""
        return even_ranges(self.count, self.chunk_tokens)

    def where(self, lo: int, hi: int) -> slice | Tensor:
        """What picks positions `lo..hi-1` of the N out of a tensor `[T, ...]`."""
        return slice(lo, hi) if self.positions is None else self.positions[lo:hi]

    def spread(self, values: Tensor) -> Tensor:
        """`[N, ...]` -> `[T, ...]`, zero at positions that were not looked at."""
        if self.positions is None:
            return values
        full = values.new_zeros((self.total, *values.shape[1:]))
        return full.index_copy_(0, self.positions, values)

    def hidden_gradient(self, rows: Tensor) -> Tensor:
        """This rank's part `[N, H]` of the gradient at the positions looked at -> the gradient of the input
        `[T, H]`, or `[T / TP, H]` with sequence parallelism. One collective, over the fewest rows that will do."""
        if not self.sequence_parallel:
            return self.spread(sum_over_ranks(rows, self.shard.group))
        if self.count == 0:
            return rows.new_zeros((self.total // group_size(self.shard.group), rows.shape[1]))
        return scatter_sum(self.spread(rows), self.shard.group)

    def pick(self, values: Tensor) -> Tensor:
        """`[T, ...]` -> `[N, ...]`."""
        return values if self.positions is None else values.index_select(0, self.positions)


def make_plan(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    tp_group: dist.ProcessGroup | None,
    *,
    temperature: float,
    vocab_size: int | None,
    index: Tensor | None,
    sequence_parallel: bool,
    chunk_tokens: int | None,
    chunk_vocab: int | None,
    need_entropy: bool,
    entropy_grad: bool,
    fused: bool,
) -> Plan:
    """Check shapes, types and numbers; raises ValueError that says which is wrong and what it should be."""
    ranks = group_size(tp_group)
    total = targets.shape[0]
    expected = total // ranks if sequence_parallel else total
    if targets.ndim != 1 or hidden.ndim != 2 or weight.ndim != 2 or hidden.shape[1] != weight.shape[1]:
        raise ValueError(
            f"need hidden [T, H], weight [V / TP, H], targets [T]; got {list(hidden.shape)}, {list(weight.shape)}, "
            f"{list(targets.shape)}"
        )
    if hidden.shape[0] != expected or (sequence_parallel and total % ranks):
        raise ValueError(
            f"hidden has {hidden.shape[0]} rows for {total} targets and {ranks} tensor-parallel ranks "
            f"(sequence_parallel={sequence_parallel})"
        )
    if hidden.dtype != weight.dtype:
        raise ValueError(f"hidden is {hidden.dtype} and weight {weight.dtype}; they must be of one type")
    if not temperature > 0:
        raise ValueError(f"temperature={temperature} must be above 0 (greedy choice has no log-prob)")
    if fused and hidden.dtype == torch.float16:
        raise ValueError("fused mode forms fp16 gradients before the loss scale reaches them; use recompute mode")
    if any(size is not None and size < 1 for size in (chunk_tokens, chunk_vocab)):
        raise ValueError(f"chunk_tokens={chunk_tokens} and chunk_vocab={chunk_vocab} must be at least 1")
    if entropy_grad and not need_entropy:
        raise ValueError("entropy_grad=True needs need_entropy=True")
    shard = VocabShard.of(weight, tp_group, vocab_size)
    dtype = compute_dtype(hidden.dtype)
    usual_tokens, usual_vocab = default_tile(hidden.device, weight.shape[0], fused)
    return Plan(
        shard=shard,
        backend=select(hidden.device, dtype),
        dtype=dtype,
        positions=_positions(index, total),
        total=total,
        chunk_tokens=chunk_tokens or usual_tokens,
        chunk_vocab=chunk_vocab or usual_vocab,
        scale=1.0 / temperature,
        need_entropy=need_entropy,
        entropy_grad=entropy_grad,
        sequence_parallel=sequence_parallel and ranks > 1,
    )


def _positions(index: Tensor | None, total: int) -> Tensor | None:
    """Long positions from an index: None, long `[N]` without repeats, or boolean `[T]`."""
    if index is None:
        return None
    if index.ndim != 1 or index.dtype not in (torch.bool, torch.long):
        raise ValueError(f"index must be long [N] or boolean [T]; got {index.dtype} {list(index.shape)}")
    if index.dtype == torch.long:
        return index
    if index.shape[0] != total:
        raise ValueError(f"a boolean index needs one entry for each of the {total} targets; got {index.shape[0]}")
    return index.nonzero().squeeze(1)
