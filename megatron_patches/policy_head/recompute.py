"""Recompute mode: keep O(T) numbers in the forward, form the logits again in the backward. 8 T H V operations."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from megatron_patches.policy_head.plan import Plan, make_plan
from megatron_patches.policy_head.shard import gather_parts, gather_sequence
from megatron_patches.policy_head.statistics import RowResult, empty_part, finish, merge


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
        ctx.save_for_backward(hidden, weight, targets, result.lse, result.entropy)
        entropy = plan.spread(result.entropy)
        if not plan.need_entropy:
            entropy = torch.full_like(entropy, torch.nan)
        if not plan.entropy_grad:
            ctx.mark_non_differentiable(entropy)
        return plan.spread(result.logp), entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_logp: Tensor, d_entropy: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        hidden, weight, targets, lse, entropy = ctx.saved_tensors
        plan: Plan = ctx.plan
        to_hidden, to_weight = ctx.needs_input_grad[:2]
        # Folding the temperature into these makes the gradient of the scaled logits that of hidden @ weight.T.
        by_logp = plan.pick(d_logp).to(plan.dtype) * plan.scale
        by_entropy = plan.pick(d_entropy).to(plan.dtype) * plan.scale if plan.entropy_grad else None
        sums = hidden.new_zeros((plan.count, hidden.shape[1]), dtype=plan.dtype) if to_hidden else None
        grad_weight = torch.empty_like(weight) if to_weight else None
        _backward_tiles(hidden, weight, targets, lse, entropy, by_logp, by_entropy, sums, grad_weight, plan)
        if sums is None:
            return None, grad_weight, None, None
        return plan.hidden_gradient(sums.to(hidden.dtype)), grad_weight, None, None


def _row_results(hidden: Tensor, weight: Tensor, targets: Tensor, plan: Plan) -> RowResult:
    """Statistics of all N positions: tile by tile over this rank's rows, then one gather over the ranks."""
    backend, chunks, tiles = plan.backend, plan.chunks(), plan.shard.tiles(plan.chunk_vocab)
    own = empty_part(plan.count, weight.new_empty(0, dtype=plan.dtype))
    parts = own.expand(max(len(tiles), 1), -1, -1).contiguous()
    buffer = _tile_buffer(weight, chunks, tiles, plan.dtype)
    for i, (first, last) in enumerate(tiles):
        rows = backend.operand(weight[first:last])
        for lo, hi in chunks:
            where = plan.where(lo, hi)
            logits = buffer[: (hi - lo) * (last - first)].view(hi - lo, last - first)
            backend.logits(backend.operand(hidden[where]), rows, plan.scale, logits)
            local = targets[where] - (plan.shard.first + first)
            backend.statistics(logits, local, plan.need_entropy, parts[i, :, lo:hi])
    return finish(merge(gather_parts(merge(parts), plan.shard.group)))


def _backward_tiles(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    lse: Tensor,
    entropy: Tensor,
    d_logp: Tensor,
    d_entropy: Tensor | None,
    grad_hidden: Tensor | None,
    grad_weight: Tensor | None,
    plan: Plan,
) -> None:
    """Add to `grad_hidden [N, H]` (compute type) and fill `grad_weight [V / TP, H]` (the weight's type).

    The vocabulary is the outer loop, so that a tile of the weight's gradient is complete before the next one begins:
    its fp32 sum is needed for one tile only, also where the weight is bf16.
    """
    backend, chunks, tiles = plan.backend, plan.chunks(), plan.shard.tiles(plan.chunk_vocab)
    buffer = _tile_buffer(weight, chunks, tiles, plan.dtype)
    for first, last in tiles:
        rows = backend.operand(weight[first:last])
        grad_rows = None if grad_weight is None else grad_weight[first:last]
        sums = grad_rows
        if grad_rows is not None and grad_rows.dtype != plan.dtype:
            sums = torch.empty_like(grad_rows, dtype=plan.dtype)
        for lo, hi in chunks:
            where = plan.where(lo, hi)
            operand = backend.operand(hidden[where])
            logits = buffer[: (hi - lo) * (last - first)].view(hi - lo, last - first)
            backend.logits(operand, rows, plan.scale, logits)
            local = targets[where] - (plan.shard.first + first)
            part = None if d_entropy is None else d_entropy[lo:hi]
            gradient = backend.gradient(logits, local, lse[lo:hi], rows.dtype, d_logp[lo:hi], part, entropy[lo:hi])
            if grad_hidden is not None:
                backend.accumulate(grad_hidden[lo:hi], gradient, rows, first=False)
            if sums is not None:
                backend.accumulate(sums, gradient.t(), operand, first=lo == 0)
        if grad_rows is not None and sums is not grad_rows and sums is not None and chunks:
            grad_rows.copy_(sums)
    if grad_weight is not None:
        grad_weight[plan.shard.rows if chunks else 0 :].zero_()


def _tile_buffer(weight: Tensor, chunks: list[tuple[int, int]], tiles: list[tuple[int, int]], dtype: Any) -> Tensor:
    """Room for the largest tile of logits, used again for every tile."""
    tokens = max((hi - lo for lo, hi in chunks), default=0)
    rows = max((last - first for first, last in tiles), default=0)
    return weight.new_empty(tokens * rows, dtype=dtype)
