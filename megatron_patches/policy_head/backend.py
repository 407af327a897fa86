"""What is done with one tile of logits `[t, v]` on one kind of device; `selection` chooses the kind.

A tile is formed by `logits`, read by `statistics`, turned into its own gradient by `gradient`, and multiplied into the
gradients of hidden states and weight by `accumulate`. The matrix products are the vendor's in every backend; a backend
differs in how it walks over the tile between them.
"""

import torch
from torch import Tensor

from megatron_patches.policy_head.statistics import FAR_BELOW, compute_dtype


class TorchBackend:
    """Plain torch, on any device.

    Sums are always fp32 (fp64 for fp64 inputs). On CUDA, 16-bit operands stay 16 bits wide and the products
    accumulate and return fp32 (`out_dtype`). On CPU, where 16-bit products are slower than fp32 ones by far, the
    operands are widened tile by tile.
    """

    block_elements = 1 << 18
    """Elements of a tile that the element-wise passes of the CPU handle at a time: 1 MiB of fp32, so that what one
    pass wrote the next one finds in a core's second-level cache."""

    def operand(self, x: Tensor) -> Tensor:
        """The matrix as the products take it: itself, or widened on CPU."""
        return x.to(compute_dtype(x.dtype)) if x.device.type == "cpu" else x

    def logits(self, hidden: Tensor, rows: Tensor, scale: float, out: Tensor) -> Tensor:
        """`scale * hidden @ rows.T`: operands `[t, H]`, `[v, H]` -> `out [t, v]` of the compute type."""
        return _addmm(out, hidden, rows.t(), beta=0, alpha=scale)

    def statistics(self, logits: Tensor, target: Tensor, entropy: bool, out: Tensor) -> None:
        """Write the four statistics `[4, t]` of the tile (see statistics.py); `target [t]` is the column in this tile
        (any number outside 0..v-1: not here). The logits stay as they are."""
        v = logits.shape[1]
        torch.amax(logits, 1, out=out[0])
        out[0].clamp_(min=torch.finfo(logits.dtype).min)  # a row of -inf alone: keep l - m away from -inf - -inf
        for lo, hi in self._blocks(logits):
            centred = logits[lo:hi] - out[0, lo:hi, None]
            exp = centred.exp()
            torch.sum(exp, 1, out=out[1, lo:hi])
            if entropy:
                torch.sum(exp.mul_(centred.clamp_(min=FAR_BELOW)), 1, out=out[2, lo:hi])
        if not entropy:
            out[2].zero_()
        here = (target >= 0) & (target < v)
        picked = logits.gather(1, target.clamp(0, v - 1)[:, None]).squeeze(1)
        out[3] = torch.where(here, picked, -torch.inf)

    def gradient(
        self,
        logits: Tensor,
        target: Tensor,
        lse: Tensor,
        dtype: torch.dtype,
        d_logp: Tensor,
        d_entropy: Tensor | None = None,
        entropy: Tensor | None = None,
    ) -> Tensor:
        """d loss / d logits `[t, v]`, using the logits up. `lse`, `d_logp`, `d_entropy`, `entropy`: `[t]`. `dtype` is
        the type of the product that takes it; a backend may return that or the compute type.

            d logp / d l_j = [j = y] - p_j        d H / d l_j = -p_j (log p_j + H)

        so that  d loss / d l_j = [j = y] d_logp - p_j (d_logp + d_entropy (log p_j + H)).
        """
        v = logits.shape[1]
        for lo, hi in self._blocks(logits):
            log_p = logits[lo:hi].sub_(lse[lo:hi, None])
            if d_entropy is None or entropy is None:
                log_p.exp_().mul_(d_logp[lo:hi, None].neg())
            else:
                p = log_p.exp()
                log_p.clamp_(min=FAR_BELOW).add_(entropy[lo:hi, None]).mul_(d_entropy[lo:hi, None])
                log_p.add_(d_logp[lo:hi, None]).mul_(p.neg_())
        here = (target >= 0) & (target < v)
        logits.scatter_add_(1, target.clamp(0, v - 1)[:, None], torch.where(here, d_logp, 0)[:, None])
        return logits

    def accumulate(self, out: Tensor, left: Tensor, right: Tensor, first: bool) -> None:
        """`out += left @ right`, or `out = left @ right` where `first` (whatever `out` held).

        `left` is the tile's gradient or its transpose, in the compute type; it is narrowed to the type of the operand
        `right` where that is 16 bits wide. The product itself always accumulates in the compute type; an `out` of a
        narrower type is rounded once for each call.
        """
        if out.dtype != right.dtype and out.dtype.itemsize < right.dtype.itemsize:  # 16-bit sums of widened operands
            product = torch.mm(left, right)
            out.copy_(product if first else product.add_(out))
        else:
            _addmm(out, left.to(right.dtype), right, beta=0 if first else 1, alpha=1.0)

    def _blocks(self, logits: Tensor) -> list[tuple[int, int]]:
        """Row ranges of a tile to be walked over one after the other."""
        t, v = logits.shape
        step = t if logits.device.type != "cpu" else max(1, self.block_elements // v)
        return [(lo, min(lo + step, t)) for lo in range(0, t, max(step, 1))]


def _addmm(out: Tensor, a: Tensor, b: Tensor, beta: int, alpha: float) -> Tensor:
    """`out = beta * out + alpha * a @ b`, in the type of `out` also where the operands are narrower (CUDA only)."""
    if a.dtype == out.dtype:
        return torch.addmm(out, a, b, beta=beta, alpha=alpha, out=out)
    return torch.addmm(out, a, b, out_dtype=out.dtype, beta=beta, alpha=alpha, out=out)
