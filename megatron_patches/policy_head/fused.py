"""Fused mode: the forward computes the gradient of each chunk while its logits are in memory. 6 T H V operations.

It needs a loss that is separable by token, `loss = sum_t f_t(logp_t, entropy_t)`, with every other number (old
log-probs, advantages, bounds, denominators) known before the forward.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from megatron_patches.policy_head.plan import Plan, make_plan
from megatron_patches.policy_head.shard import gather_parts, gather_sequence
from megatron_patches.policy_head.statistics import RowResult, empty_parts, finish, merge

Objective = Callable[[slice | Tensor, Tensor, Tensor], Tensor]
"""`objective(where, logp [t], entropy [t])` returns the chunk's loss: `[t]` (a number for each position) or their sum.

`where` (a slice or an int64 tensor `[t]`) selects the chunk's positions from a tensor `[T]` that the objective holds.
It is called once per chunk, with gradients enabled. The loss of a position must not depend on the `logp` or `entropy`
of another."""


def fused_policy_head(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    objective: Objective,
    tp_group: dist.ProcessGroup | None = None,
    *,
    temperature: float = 1.0,
    vocab_size: int | None = None,
    index: Tensor | None = None,
    sequence_parallel: bool = False,
    chunk_tokens: int | None = None,
    chunk_vocab: int | None = None,
    need_entropy: bool = True,
    fp32_sums: bool = True,
) -> tuple[Tensor, Tensor, Tensor]:
    """Computes the loss of a token-separable objective, and its gradient at the same time.

    Args:
        objective: see `Objective`. The entropy gets a gradient if the result depends on it.
        chunk_tokens: positions per chunk. `chunk_tokens * V / TP` logits are held at once.
        fp32_sums: False sums the gradient of a bf16 weight in bf16, with one rounding per chunk.
        The others are those of `token_logprobs`.

    Returns:
        `(loss, logp [T], entropy [T])` in fp32 (fp64 for fp64 inputs). The loss is the sum of the objective over the
        positions, a scalar that is differentiable in `hidden` and `weight`. It can be differentiated once: the backward
        returns the stored gradients, multiplied in place by the incoming one. Log-probs (nats) and entropies (nats) are
        detached, and zero at positions that `index` leaves out.

    Raises:
        ValueError: an argument is wrong, or the objective returns another shape. fp16 is not allowed: its gradients
            would be rounded before a loss scale reaches them.

    Memory beyond inputs and gradients: `chunk_tokens * V / TP` logits; for a bf16 weight also the fp32 sum
    `[V / TP, H]` of its gradient (not with `fp32_sums=False`). Collectives: per chunk one all-gather of four numbers a
    position, and once a reduction of the gradient of `hidden`.
    """
    plan = make_plan(
        hidden, weight, targets, tp_group, temperature=temperature, vocab_size=vocab_size, index=index,
        sequence_parallel=sequence_parallel, chunk_tokens=chunk_tokens, chunk_vocab=chunk_vocab,
        need_entropy=need_entropy, entropy_grad=need_entropy, fused=True,
    )  # fmt: skip
    loss, logp, entropy = _FusedHead.apply(hidden, weight, targets, objective, plan, fp32_sums, torch.is_grad_enabled())
    return loss, logp, entropy


class _FusedHead(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        objective: Objective,
        plan: Plan,
        fp32_sums: bool,
        grad_enabled: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        # Inside forward() gradients are always off, so the caller passes whether they were on.
        to_hidden, to_weight = (grad_enabled and needed for needed in ctx.needs_input_grad[:2])
        if plan.sequence_parallel:
            hidden = gather_sequence(hidden, plan.shard.group)
        # Each row of grad_hidden is written once, so it may have the input's dtype. grad_weight is a sum over chunks:
        # in bf16 every chunk would round it.
        grad_hidden = hidden.new_empty((plan.count, hidden.shape[1])) if to_hidden else None
        grad_weight = torch.zeros_like(weight, dtype=plan.dtype if fp32_sums else None) if to_weight else None
        loss = weight.new_zeros((), dtype=plan.dtype)
        logp = weight.new_empty(plan.count, dtype=plan.dtype)
        entropy = torch.empty_like(logp)

        # One buffer for all chunks. The largest chunk sets its size, and a chunk's gradient overwrites its logits
        # there.
        chunks = plan.chunks()
        buffer = weight.new_empty(max((hi - lo for lo, hi in chunks), default=0) * plan.shard.rows, dtype=plan.dtype)
        for lo, hi in chunks:
            where = plan.where(lo, hi)
            chunk = _Chunk(plan, hidden[where], weight, targets[where], buffer)
            result = chunk.forward()
            logp[lo:hi], entropy[lo:hi] = result.logp, result.entropy
            # The incoming gradient is not known yet. The loss is linear in it, so the gradient is computed for 1 here
            # and scaled in the backward.
            chunk_loss, d_logp, d_entropy = _evaluate(objective, where, result, plan.need_entropy)
            loss += chunk_loss
            if to_hidden or to_weight:
                grad_rows = chunk.backward(result, d_logp, d_entropy, to_hidden, grad_weight)
                if grad_hidden is not None and grad_rows is not None:
                    grad_hidden[lo:hi] = grad_rows

        # Every rank holds the part of its own vocabulary: one reduction for all chunks instead of one each.
        if grad_hidden is not None:
            grad_hidden = plan.hidden_gradient(grad_hidden)
        if grad_weight is not None:
            grad_weight = grad_weight.to(weight.dtype)
        ctx.gradients = (grad_hidden, grad_weight)
        logp, entropy = plan.spread(logp), plan.spread(entropy)
        if not plan.need_entropy:
            entropy = torch.full_like(entropy, torch.nan)
        ctx.mark_non_differentiable(logp, entropy)
        return loss, logp, entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_loss: Tensor, _logp: Any, _entropy: Any) -> tuple[Tensor | None, ...]:
        if ctx.gradients is None:
            raise RuntimeError(
                "the fused head returned its gradients already and can run only one backward; use token_logprobs "
                "(recompute mode) if you need a second one"
            )
        grad_hidden, grad_weight = ctx.gradients
        ctx.gradients = None  # scaled in place below and then owned by autograd
        for gradient in (grad_hidden, grad_weight):
            if gradient is not None:
                gradient.mul_(d_loss)
        return grad_hidden, grad_weight, None, None, None, None, None


class _Chunk:
    """The logits `[t, V / TP]` of one chunk, as tiles in one buffer."""

    def __init__(self, plan: Plan, hidden: Tensor, weight: Tensor, targets: Tensor, buffer: Tensor) -> None:
        self.plan, self.weight, self.targets = plan, weight, targets
        self.hidden = plan.backend.operand(hidden)
        t = self.hidden.shape[0]
        self.tiles = [
            (first, last, buffer[t * first : t * last].view(t, last - first))
            for first, last in plan.shard.tiles(plan.chunk_vocab)
        ]

    def forward(self) -> RowResult:
        """Fills the buffer with logits. Returns log-prob, entropy and log-sum-exp `[t]` over the rows of all ranks."""
        plan = self.plan
        parts = empty_parts(max(len(self.tiles), 1), self.targets.shape[0], self.hidden)
        for i, (first, last, logits) in enumerate(self.tiles):
            plan.backend.logits(self.hidden, plan.backend.operand(self.weight[first:last]), plan.scale, logits)
            local = self.targets - (plan.shard.first + first)
            plan.backend.statistics(logits, local, plan.need_entropy, parts[i])
        return finish(merge(gather_parts(merge(parts), plan.shard.group)))

    def backward(
        self,
        result: RowResult,
        d_logp: Tensor,
        d_entropy: Tensor | None,
        to_hidden: bool,
        grad_weight: Tensor | None,
    ) -> Tensor | None:
        """Adds to `grad_weight [V / TP, H]`, and returns this rank's part of the gradient `[t, H]`. Overwrites the
        logits."""
        plan = self.plan
        # With 1 / temperature here, the gradient of the scaled logits is that of hidden @ weight.T.
        d_logp = d_logp * plan.scale
        d_entropy = None if d_entropy is None else d_entropy * plan.scale
        grad_hidden = torch.zeros_like(self.hidden, dtype=plan.dtype) if to_hidden else None
        for first, last, logits in self.tiles:
            local = self.targets - (plan.shard.first + first)
            gradient = plan.backend.gradient(
                logits, local, result.lse, self.hidden.dtype, d_logp, d_entropy, result.entropy
            )
            if grad_hidden is not None:
                rows = plan.backend.operand(self.weight[first:last])
                plan.backend.accumulate(grad_hidden, gradient, rows, first=False)
            if grad_weight is not None:
                plan.backend.accumulate(grad_weight[first:last], gradient.t(), self.hidden, first=False)
        return grad_hidden


def _evaluate(
    objective: Objective, where: slice | Tensor, result: RowResult, need_entropy: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Computes the chunk's loss, and its derivatives `[t]` by log-prob and entropy (None if it does not depend on
    it)."""
    with torch.enable_grad():
        logp = result.logp.detach().requires_grad_()
        entropy = result.entropy.detach().requires_grad_(need_entropy)
        loss = objective(where, logp, entropy)
        if loss.shape not in ((), logp.shape):
            raise ValueError(
                f"the objective must return a number for each position, {list(logp.shape)}, or their sum;"
                f" got {list(loss.shape)}"
            )
        loss = loss.sum()
        leaves = (logp, entropy) if need_entropy else (logp,)
        gradients = torch.autograd.grad(loss, leaves, allow_unused=True) if loss.requires_grad else (None, None)
    d_logp = torch.zeros_like(logp) if gradients[0] is None else gradients[0]
    return loss.detach(), d_logp, gradients[1] if need_entropy else None
