"""Weight gradients that are added to Megatron's fp32 buffer within the product itself (`rl.fused_grad_accumulation`).

Otherwise a product's gradient is rounded to bf16, and then added: each micro-batch costs a rounding and a second pass over the
buffer. Upstream's local layers call apex's extension for it (megatron-core 0.16.1, tensor_parallel/layers.py:44); torch's own
product with fp32 sums does the same (patch `weight-gradients`). Transformer Engine's layers have theirs.
"""

import torch
from megatron.core.tensor_parallel import layers


class TorchProducts:
    """What upstream calls of apex's `fused_weight_gradient_mlp_cuda`."""

    @staticmethod
    def wgrad_gemm_accum_fp32(x: torch.Tensor, grad: torch.Tensor, total: torch.Tensor) -> None:
        """total fp32 [out, in] += grad [t, out].T @ x [t, in]."""
        if x.device.type == "cpu" or x.dtype == torch.float32:
            total.addmm_(grad.t().float(), x.float())
        else:
            torch.addmm(total, grad.t(), x, out_dtype=torch.float32, out=total)


def install() -> None:
    """Gives upstream's layers the product where apex is not installed."""
    if not layers._grad_accum_fusion_available:
        layers.fused_weight_gradient_mlp_cuda = TorchProducts
        layers._grad_accum_fusion_available = True
