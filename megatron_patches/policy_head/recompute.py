"""Recompute mode: keep O(T) numbers in the forward, form the logits again in the backward. 8 T H V operations."""

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
    """Log-prob of each target and entropy of each position, differentiable in `hidden` and `weight`.

    Args:
        hidden: `[T, H]`, the same on every tensor-parallel rank; with `sequence_parallel` this rank's `[T / TP, H]`.
            fp64, fp32, bf16 or fp16.
        weight: this rank's rows `[V_padded / TP, H]` of the output weight, of the same type. It may be the tied word
            embedding: the gradient comes back as an ordinary autograd gradient, summed in fp32 before it is rounded
            to the weight's type.
        targets: long `[T]`, global token ids. A target that is no real token has log-prob -inf.
        tp_group: the tensor-parallel group; None or a group of one: a single process.
        temperature: logits are divided by it.
        vocab_size: number of real tokens; the rows above it are padding and take no probability. None: all are real.
        index: positions that somebody needs, long `[N]` without repeats or boolean `[T]`, the same on every
            tensor-parallel rank. The others cost nothing; their results and gradients are zero. A boolean index
            makes CUDA wait for the device; a long one does not.
        sequence_parallel: gather `hidden` here and reduce-scatter its gradient. Otherwise the gradient is all-reduced
            over `tp_group`, as ColumnParallelLinear does.
        chunk_tokens, chunk_vocab: positions and vocabulary rows of a tile of logits, the most that is held at once.
            None: what suits the device.
        need_entropy: False saves a pass over the logits; the entropy is then nan.
        entropy_grad: whether the entropy has a gradient.

    Returns:
        `(logp [T], entropy [T])` in fp32 (fp64 for fp64 inputs), bit-equal on all tensor-parallel ranks; entropy in
        nats.

    Memory beyond inputs and gradients: a tile of logits and O(T) numbers, in forward and backward; for 16-bit inputs
    also an fp32 sum `[N, H]` and one of `[chunk_vocab, H]` in the backward, and with `sequence_parallel` the gathered
    hidden states. Collectives: one all-gather of four numbers a position, and one reduction of the gradient of
    `hidden` (and with `sequence_parallel` one gather).
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
        # Folding the temperature into these makes the gradient of the scaled logits that of hidden @ weight.T.
        by_logp = plan.pick(d_logp).to(plan.dtype) * plan.scale
        by_entropy = plan.pick(d_entropy).to(plan.dtype) * plan.scale if plan.entropy_grad else None
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
    """Of the range of rows, counted from 0."""
    first: int
    last: int
    lo: int
    hi: int
    logits: Tensor
    """`[hi - lo, last - first]`, in a buffer that the next tile overwrites."""
    target: Tensor
    """Column of each position's target in this tile; outside `0..last-first-1` where it is elsewhere."""
    hidden: Tensor
    rows: Tensor
    """The two operands `[hi - lo, H]` and `[last - first, H]`."""


def _walk(hidden: Tensor, weight: Tensor, targets: Tensor, plan: Plan) -> Iterator[_Tile]:
    """Form every tile of logits in turn.

    The vocabulary is the outer loop, so that a tile of the weight's gradient is complete before the next one begins:
    its fp32 sum is needed for one tile only, also where the weight is bf16.
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
    """Log-prob, entropy and log-sum-exp of all N positions: this rank's tiles, then one gather over the ranks."""
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
    """Add to `grad_hidden [N, H]` (compute type), fill `grad_weight [V / TP, H]` (the weight's type)."""
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
            own = grad_weight[tile.first : tile.last]
            if tile.lo == 0:
                sums = own if own.dtype == plan.dtype else torch.empty_like(own, dtype=plan.dtype)
            assert sums is not None  # a tile's first positions come first
            backend.accumulate(sums, gradient.t(), tile.hidden, first=tile.lo == 0)
            if tile.hi == plan.count and sums.dtype != own.dtype:
                own.copy_(sums)
    if grad_weight is not None:
        grad_weight[plan.shard.rows if plan.count else 0 :].zero_()
