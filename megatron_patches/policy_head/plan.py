"""The plan of one call of the head: its checked arguments, and the chunks of its positions."""

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
"""Limit of the logits of one chunk in fused mode on CUDA, in bytes."""


def default_tile(device: torch.device, rows: int, fused: bool) -> tuple[int, int]:
    """Returns the default size of a tile: positions and vocabulary rows.

    `rows`: those of a rank's shard with its padding. All ranks have the same number, and must split positions alike.

    On CPU a tile of fp32 logits and its rows of the weight have to fit into the last-level cache (8 + 16 MB at
    H = 1,024). The positions of a fused chunk do not depend on the number of ranks, so more ranks need less memory
    each. On CUDA every product adds to fp32 sums of the gradients, whose traffic is 4 / positions and 4 / rows bytes
    per operation: both sides have to be long to keep the product bound by arithmetic.
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
    """int64 `[N]`: the positions to compute; None: all."""
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
        """N, the number of positions to compute."""
        return self.total if self.positions is None else self.positions.shape[0]

    def chunks(self) -> list[tuple[int, int]]:
        """Splits the N positions into ranges of at most `chunk_tokens`."""
        return even_ranges(self.count, self.chunk_tokens)

    def where(self, lo: int, hi: int) -> slice | Tensor:
        """Returns the index of positions `lo..hi-1` of the N in a tensor `[T, ...]`."""
        return slice(lo, hi) if self.positions is None else self.positions[lo:hi]

    def spread(self, values: Tensor) -> Tensor:
        """Expands `[N, ...]` to `[T, ...]`, with zeros at the positions that were not computed."""
        if self.positions is None:
            return values
        full = values.new_zeros((self.total, *values.shape[1:]))
        return full.index_copy_(0, self.positions, values)

    def hidden_gradient(self, rows: Tensor) -> Tensor:
        """Sums the ranks' parts `[N, H]` of the gradient into that of the input, `[T, H]` or, with sequence
        parallelism, `[T / TP, H]`. One collective, of N rows if possible."""
        if not self.sequence_parallel:
            return self.spread(sum_over_ranks(rows, self.shard.group))
        if self.count == 0:
            return rows.new_zeros((self.total // group_size(self.shard.group), rows.shape[1]))
        return scatter_sum(self.spread(rows), self.shard.group)

    def pick(self, values: Tensor) -> Tensor:
        """Selects the N positions: `[T, ...]` -> `[N, ...]`."""
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
    """Checks the arguments and makes the plan. Raises ValueError that says what is wrong and what it should be."""
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
            f"(sequence_parallel={sequence_parallel}); it needs {expected}, and with sequence_parallel=True the ranks "
            "must divide the targets"
        )
    if hidden.dtype != weight.dtype:
        raise ValueError(f"hidden is {hidden.dtype} and weight {weight.dtype}; they must be of one type")
    if not temperature > 0:
        raise ValueError(f"temperature={temperature} must be above 0 (greedy decoding has no log-prob)")
    if fused and hidden.dtype == torch.float16:
        raise ValueError(
            "fused mode would round fp16 gradients before the loss scale reaches them; use token_logprobs (recompute "
            "mode), or bf16"
        )
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
    """Converts an index to int64 positions: None, int64 `[N]` without repeats, or boolean `[T]`."""
    if index is None:
        return None
    if index.ndim != 1 or index.dtype not in (torch.bool, torch.long):
        raise ValueError(f"index must be long [N] or boolean [T]; got {index.dtype} {list(index.shape)}")
    if index.dtype == torch.long:
        return index
    if index.shape[0] != total:
        raise ValueError(f"a boolean index needs one entry for each of the {total} targets; got {index.shape[0]}")
    return index.nonzero().squeeze(1)
