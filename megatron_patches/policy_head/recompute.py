"""Recompute mode: the forward keeps O(T) numbers, and the backward computes the logits again. 8 T H V operations."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from megatron_patches.policy_head.plan import Plan, make_plan
from megatron_patches.policy_head.shard import gather_parts, gather_sequence
from megatron_patches.policy_head.statistics import RowResult, empty_parts, finish, merge


def token_logprobs(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    tp_group: dist.ProcessGroup | None = None,
    *,
    temperature: float = 1.0,
    vocab_size: int | None = None,
    index: Tensor | None = None,
    sequence_parallel: bool = False,
    chunk_tokens: int | None = None,
    chunk_vocab: int | None = None,
    need_entropy: bool = True,
    entropy_grad: bool = False,
) -> tuple[Tensor, Tensor]:
    """Computes the log-prob of each target and the entropy of each position, differentiable in `hidden` and `weight`.

    Args:
        hidden: `[T, H]`, the same on every tensor-parallel rank; with `sequence_parallel` this rank's `[T / TP, H]`.
            fp64, fp32, bf16 or fp16.
        weight: this rank's rows `[V_padded / TP, H]` of the output weight, in the same dtype. It may be the tied word
            embedding: its gradient is an ordinary autograd gradient, summed in fp32 and then rounded to the weight's
            dtype.
        targets: int64 `[T]`, global token ids. A target that is not a real token has log-prob -inf.
        tp_group: the tensor-parallel group. None or a group of one means a single process.
        temperature: divides the logits.
        vocab_size: the number of real tokens. Rows above it are padding and have probability 0. None: all are real.
        index: the positions to compute: int64 `[N]` without repeats or boolean `[T]`, the same on every tensor-parallel
            rank. The others cost nothing, and their results and gradients are zero. A boolean index synchronises with a
            CUDA device; an int64 one does not.
        sequence_parallel: gather `hidden` here and reduce-scatter its gradient. Otherwise the gradient is all-reduced
            over `tp_group`, as ColumnParallelLinear does.
        chunk_tokens, chunk_vocab: positions and vocabulary rows of a tile of logits; one tile is held at a time. None:
            a default for the device.
        need_entropy: False saves a pass over the logits; the entropy is then NaN.
        entropy_grad: whether the entropy has a gradient.

    Returns:
        `(logp [T], entropy [T])` in nats, fp32 (fp64 for fp64 inputs), bit-equal on all tensor-parallel ranks.

    Raises:
        ValueError: a shape, dtype or number is wrong.

    Memory beyond inputs and gradients: a tile of logits and O(T) numbers, in forward and backward. For 16-bit inputs
    the backward also holds fp32 sums `[N, H]` and `[chunk_vocab, H]`; with `sequence_parallel` the gathered hidden
    states are held. Collectives: one all-gather of four numbers per position, and one reduction of the gradient of
    `hidden` (with `sequence_parallel` also one gather).
    """
    plan = make_plan(
        hidden, weight, targets, tp_group, temperature=temperature, vocab_size=vocab_size, index=index,
        sequence_parallel=sequence_parallel, chunk_tokens=chunk_tokens, chunk_vocab=chunk_vocab,
        need_entropy=need_entropy, entropy_grad=entropy_grad, fused=False,
    )  # fmt: skip
    logp, entropy = _TokenLogprobs.apply(hidden, weight, targets, plan)
    return logp, entropy


class _TokenLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, plan: Plan) -> tuple[Tensor, Tensor]:
        if plan.sequence_parallel:
            hidden = gather_sequence(hidden, plan.shard.group)
        result = _row_results(hidden, weight, targets, plan)
        ctx.plan = plan
        ctx.save_for_backward(hidden, weight, targets, *result)
        entropy = plan.spread(result.entropy)
        if not plan.need_entropy:
            entropy = torch.full_like(entropy, torch.nan)
        if not plan.entropy_grad:
            ctx.mark_non_differentiable(entropy)
        return plan.spread(result.logp), entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_logp: Tensor, d_entropy: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        hidden, weight, targets, *result = ctx.saved_tensors
        plan: Plan = ctx.plan
        to_hidden, to_weight = ctx.needs_input_grad[:2]
        # With 1 / temperature here, the gradient of the scaled logits is that of hidden @ weight.T.
        by_logp = plan.pick(d_logp).to(plan.dtype) * plan.scale
        by_entropy = plan.pick(d_entropy).to(plan.dtype) * plan.scale if plan.entropy_grad else None
        # Every tile adds to `sums`, so it is fp32. A tile's part of grad_weight is complete after one pass over the
        # positions, so grad_weight can have the weight's dtype.
        sums = hidden.new_zeros((plan.count, hidden.shape[1]), dtype=plan.dtype) if to_hidden else None
        grad_weight = torch.empty_like(weight) if to_weight else None
        walk = _walk(hidden, weight, targets, plan)
        _add_gradients(walk, plan, RowResult(*result), by_logp, by_entropy, sums, grad_weight)
        if sums is None:
            return None, grad_weight, None, None
        return plan.hidden_gradient(sums.to(hidden.dtype)), grad_weight, None, None


class _Tile(NamedTuple):
    """Logits of positions `lo..hi-1` of the N and of rows `first..last-1` of this rank's shard."""

    number: int
    """The number of the range of rows, from 0."""
    first: int
    last: int
    lo: int
    hi: int
    logits: Tensor
    """`[hi - lo, last - first]`, in a buffer that the next tile overwrites."""
    target: Tensor
    """Column of each position's target in this tile; outside `0..last-first-1` if it is elsewhere."""
    hidden: Tensor
    rows: Tensor
    """The two operands `[hi - lo, H]` and `[last - first, H]`."""


def _walk(hidden: Tensor, weight: Tensor, targets: Tensor, plan: Plan) -> Iterator[_Tile]:
    """Computes every tile of logits in turn.

    The vocabulary is the outer loop. A tile of the weight's gradient is then complete before the next one begins, so
    the fp32 sum for a bf16 weight is needed for one tile only.
    """
    backend, chunks, tiles = plan.backend, plan.chunks(), plan.shard.tiles(plan.chunk_vocab)
    longest = [max((hi - lo for lo, hi in ranges), default=0) for ranges in (chunks, tiles)]
    buffer = weight.new_empty(longest[0] * longest[1], dtype=plan.dtype)
    for number, (first, last) in enumerate(tiles):
        rows = backend.operand(weight[first:last])
        for lo, hi in chunks:
            where = plan.where(lo, hi)
            operand = backend.operand(hidden[where])
            logits = buffer[: (hi - lo) * (last - first)].view(hi - lo, last - first)
            backend.logits(operand, rows, plan.scale, logits)
            target = targets[where] - (plan.shard.first + first)
            yield _Tile(number, first, last, lo, hi, logits, target, operand, rows)


def _row_results(hidden: Tensor, weight: Tensor, targets: Tensor, plan: Plan) -> RowResult:
    """Computes log-prob, entropy and log-sum-exp of all N positions: this rank's tiles, then one gather over ranks."""
    parts = empty_parts(max(len(plan.shard.tiles(plan.chunk_vocab)), 1), plan.count, weight)
    for tile in _walk(hidden, weight, targets, plan):
        plan.backend.statistics(
            tile.logits, tile.target, plan.need_entropy, out=parts[tile.number, :, tile.lo : tile.hi]
        )
    return finish(merge(gather_parts(merge(parts), plan.shard.group)))


def _add_gradients(
    walk: Iterator[_Tile],
    plan: Plan,
    row: RowResult,
    d_logp: Tensor,
    d_entropy: Tensor | None,
    grad_hidden: Tensor | None,
    grad_weight: Tensor | None,
) -> None:
    """Adds to `grad_hidden [N, H]` (compute type) and fills `grad_weight [V / TP, H]` (the weight's dtype)."""
    backend, sums = plan.backend, None
    for tile in walk:
        at = slice(tile.lo, tile.hi)
        by_entropy = None if d_entropy is None else d_entropy[at]
        gradient = backend.gradient(
            tile.logits, tile.target, row.lse[at], tile.rows.dtype, d_logp[at], by_entropy, row.entropy[at]
        )
        if grad_hidden is not None:
            backend.accumulate(grad_hidden[at], gradient, tile.rows, first=False)
        if grad_weight is not None:
            # The chunks of one range of rows come one after the other: the first starts its sum, the last rounds it.
            own = grad_weight[tile.first : tile.last]
            if tile.lo == 0:
                sums = own if own.dtype == plan.dtype else torch.empty_like(own, dtype=plan.dtype)
            assert sums is not None  # a tile's first positions come first
            backend.accumulate(sums, gradient.t(), tile.hidden, first=tile.lo == 0)
            if tile.hi == plan.count and sums.dtype != own.dtype:
                own.copy_(sums)
    if grad_weight is not None:
        # No tile covers padding rows, and without positions there is no tile at all: grad_weight was not initialised.
        grad_weight[plan.shard.rows if plan.count else 0 :].zero_()
