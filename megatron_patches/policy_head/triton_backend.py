"""Triton kernels for the passes over a tile of logits between the matrix products, for CUDA.

The matrix products write and read a tile through the GPU's memory. A backend adds the traffic of the element-wise
passes. For plain torch that is about 80 bytes per logit in forward and backward together: maximum, subtraction,
exponential and sums are separate kernels. Here every logit is read once for its statistics (4 bytes) and once for its
gradient, which is written in the dtype of the products (4 + 2 bytes for bf16).

Only `selection.select` imports this module, and only if triton is installed. TRITON_INTERPRET=1 runs it on CPU tensors.
"""

from contextlib import nullcontext

import torch
import triton
import triton.language as tl
from torch import Tensor

from megatron_patches.policy_head.backend import TorchBackend
from megatron_patches.policy_head.statistics import FAR_BELOW

STATISTICS_BLOCK = 4096
GRADIENT_BLOCK = 2048


@triton.jit
def _statistics_kernel(
    logits, target, out, columns, out_stride, lowest, far_below, ENTROPY: tl.constexpr, BLOCK: tl.constexpr
):
    """Computes the four statistics online, with one read of the row. One program per row."""
    row = tl.program_id(0).to(tl.int64)
    logits += row * columns
    top = lowest
    total = 0.0
    weighted = 0.0
    for start in range(0, columns, BLOCK):
        at = start + tl.arange(0, BLOCK)
        x = tl.load(logits + at, mask=at < columns, other=float("-inf"))
        raised = tl.maximum(top, tl.max(x, 0))
        below = tl.maximum(top - raised, far_below)
        scale = tl.exp(below)
        # tl.maximum drops a NaN unless told otherwise; torch keeps it, and a row with one must be seen as such.
        centred = tl.maximum(x - raised, far_below, propagate_nan=tl.PropagateNan.ALL)
        exp = tl.exp(centred)
        if ENTROPY:
            weighted = scale * (weighted + below * total) + tl.sum(exp * centred, 0)
        total = scale * total + tl.sum(exp, 0)
        top = raised
    chosen = tl.load(target + row)
    here = (chosen >= 0) & (chosen < columns)
    picked = tl.load(logits + chosen, mask=here, other=float("-inf"))
    tl.store(out + row, top)
    tl.store(out + out_stride + row, total)
    tl.store(out + 2 * out_stride + row, weighted)
    tl.store(out + 3 * out_stride + row, picked)


@triton.jit
def _gradient_kernel(
    logits, target, lse, d_logp, d_entropy, entropy, out, columns, far_below, ENTROPY: tl.constexpr, BLOCK: tl.constexpr
):
    """Computes the gradient. One program per row and block of columns; `out` may be the logits."""
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = at < columns
    x = tl.load(logits + row * columns + at, mask=inside, other=float("-inf"))
    by_logp = tl.load(d_logp + row)
    log_p = x - tl.load(lse + row)
    factor = by_logp
    if ENTROPY:
        factor = by_logp + tl.load(d_entropy + row) * (tl.maximum(log_p, far_below) + tl.load(entropy + row))
    chosen = tl.where(at == tl.load(target + row), by_logp, 0.0)
    tl.store(out + row * columns + at, chosen - tl.exp(log_p) * factor, mask=inside)


class TritonBackend(TorchBackend):
    """TorchBackend with one kernel per pass over fp32 tiles."""

    def statistics(self, logits: Tensor, target: Tensor, entropy: bool, out: Tensor) -> None:
        t, v = logits.shape
        with _on(logits.device):
            _statistics_kernel[(t,)](
                logits, target.contiguous(), out, v, out.stride(0), torch.finfo(logits.dtype).min, FAR_BELOW,
                ENTROPY=entropy, BLOCK=STATISTICS_BLOCK, num_warps=8,
            )  # fmt: skip

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
        t, v = logits.shape
        out = logits if dtype == logits.dtype else torch.empty_like(logits, dtype=dtype)
        by_entropy, mean = (lse, lse) if d_entropy is None or entropy is None else (d_entropy, entropy)
        with _on(logits.device):
            _gradient_kernel[(t, triton.cdiv(v, GRADIENT_BLOCK))](
                logits, target.contiguous(), lse.contiguous(), d_logp.contiguous(),
                by_entropy.contiguous(), mean.contiguous(), out, v, FAR_BELOW,
                ENTROPY=by_entropy is not lse, BLOCK=GRADIENT_BLOCK, num_warps=4,
            )  # fmt: skip
        return out


def _on(device: torch.device):
    """Makes `device` current: Triton launches on the current device, which may not be that of the tensors."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()
