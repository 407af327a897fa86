"""The operations on one tile of logits `[t, v]`, for one kind of device; `selection` chooses the backend.

`logits` computes a tile, `statistics` reads it, `gradient` turns it into its own gradient, and `accumulate` multiplies
that into the gradients of hidden states and weight. Every backend uses the vendor's matrix products. Backends differ in
the element-wise passes between them.
"""

import torch
from torch import Tensor

from megatron_patches.policy_head.statistics import FAR_BELOW, compute_dtype


class TorchBackend:
    """Plain torch, for any device.

    Sums are always fp32 (fp64 for fp64 inputs). On CUDA, 16-bit operands stay 16 bits wide, and products accumulate in
    and return fp32 (`out_dtype`). On CPU, 16-bit products are much slower than fp32 ones, so operands are widened tile
    by tile.
    """

    block_elements = 1 << 18
    """Elements per block of an element-wise pass on CPU: 1 MiB of fp32, which stays in a core's second-level cache
    between passes."""

    def operand(self, x: Tensor) -> Tensor:
        """Returns the matrix in the dtype of the products: unchanged, or widened on CPU."""
        return x.to(compute_dtype(x.dtype)) if x.device.type == "cpu" else x

    def logits(self, hidden: Tensor, rows: Tensor, scale: float, out: Tensor) -> Tensor:
        """Computes `scale * hidden @ rows.T`: operands `[t, H]`, `[v, H]` -> `out [t, v]` of the compute type."""
        return _addmm(out, hidden, rows.t(), beta=0, alpha=scale)

    def statistics(self, logits: Tensor, target: Tensor, entropy: bool, out: Tensor) -> None:
        """Writes the four statistics `[4, t]` of the tile (see statistics.py). The logits do not change.

        `target [t]` is the target's column in this tile; a number outside 0..v-1 means that it is elsewhere.
        """
        v = logits.shape[1]
        torch.amax(logits, 1, out=out[0])
        out[0].clamp_(min=torch.finfo(logits.dtype).min)  # in a row of -inf only, l - m would be -inf - -inf = NaN
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
        """Computes d loss / d logits `[t, v]`, overwriting the logits.

            d logp / d l_j = [j = y] - p_j        d H / d l_j = -p_j (log p_j + H)

        so that  d loss / d l_j = [j = y] d_logp - p_j (d_logp + d_entropy (log p_j + H)).

        `lse`, `d_logp`, `d_entropy` and `entropy` are `[t]` in the compute type. `dtype` is that of the products that
        follow; a backend returns either that or the compute type.
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
        """Computes `out += left @ right`, or `out = left @ right` if `first` (`out` may then hold anything).

        `left` is the tile's gradient or its transpose, in the compute type. It is narrowed to the type of `right` if
        that is 16 bits wide. The product always accumulates in the compute type; an `out` of a narrower type is rounded
        once per call.
        """
        if out.dtype != right.dtype and out.dtype.itemsize < right.dtype.itemsize:  # 16-bit sums of widened operands
            product = torch.mm(left, right)
            out.copy_(product if first else product.add_(out))
        else:
            _addmm(out, left.to(right.dtype), right, beta=0 if first else 1, alpha=1.0)

    def _blocks(self, logits: Tensor) -> list[tuple[int, int]]:
        """Splits the rows of a tile into ranges for the element-wise passes."""
        t, v = logits.shape
        step = t if logits.device.type != "cpu" else max(1, self.block_elements // v)
        return [(lo, min(lo + step, t)) for lo in range(0, t, max(step, 1))]


def _addmm(out: Tensor, a: Tensor, b: Tensor, beta: int, alpha: float) -> Tensor:
    """Computes `out = beta * out + alpha * a @ b` in the type of `out`, even if the operands are narrower (CUDA
    only)."""
    if a.dtype == out.dtype:
        return torch.addmm(out, a, b, beta=beta, alpha=alpha, out=out)
    return torch.addmm(out, a, b, out_dtype=out.dtype, beta=beta, alpha=alpha, out=out)
