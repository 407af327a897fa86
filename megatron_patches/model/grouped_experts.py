"""Experts whose products are made together (`rl.grouped_experts`).

Upstream's local experts run one after the other in Python, two products each (megatron-core 0.16.1,
transformer/moe/experts.py, SequentialMLP): at 128 experts that is hundreds of small kernels a layer. Its own grouped form
without Transformer Engine needs a package that is no longer maintained, and keeps weights transposed, so that optimizer states
do not carry over. Here the parameters stay upstream's, one matrix for each expert, with their names, checkpoints and optimizer
states; they are laid side by side for each product (patch `grouped-experts`).
"""

import torch
import torch.nn.functional as F
from megatron.core.fusions.fused_bias_swiglu import weighted_bias_swiglu_impl
from megatron.core.transformer.moe.experts import SequentialMLP


class GroupedExperts(SequentialMLP):
    """SequentialMLP with one product for all experts of a rank, forward and each way backward."""

    def forward(
        self, permuted_local_hidden_states: torch.Tensor, tokens_per_expert: torch.Tensor, permuted_probs: torch.Tensor
    ) -> tuple[torch.Tensor, None]:
        """Tokens [t, h] in the order of their experts, `tokens_per_expert` int64 [experts] on the host or the device, and
        routing weights [t] -> [t, h]."""
        x, share = permuted_local_hidden_states, permuted_probs.unsqueeze(-1)
        ends = tokens_per_expert.cumsum(0).to(device=x.device, dtype=torch.int32, non_blocking=True)
        fc1, fc2 = ([getattr(one, name).weight for one in self.local_experts] for name in ("linear_fc1", "linear_fc2"))
        inner = _Products.apply(x, ends, *fc1)
        if self.config.bias_activation_fusion:
            inner = weighted_bias_swiglu_impl(inner, None, share, self.config.activation_func_fp8_input_store)
        else:
            gate, up = inner.chunk(2, -1)
            inner = (F.silu(gate) * up * share).to(inner.dtype)
        return _Products.apply(inner, ends, *fc2), None


class _Products(torch.autograd.Function):
    """Rows of x [t, k] that end at `ends` int32 [experts], each group with its expert's weight [n, k] -> [t, n].

    The weights laid side by side are a copy of all of a layer's experts. It is made again for the backward pass, which costs
    reading and writing them, instead of being kept for every layer.
    """

    @staticmethod
    def forward(ctx, x: torch.Tensor, ends: torch.Tensor, *weights: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x, ends, *weights)
        return F.grouped_mm(x, torch.stack(weights).transpose(1, 2), offs=ends)

    @staticmethod
    def backward(ctx, grad: torch.Tensor):  # type: ignore[override]
        x, ends, *weights = ctx.saved_tensors
        grad = grad.contiguous()
        by_weight = F.grouped_mm(grad.t(), x, offs=ends)
        return F.grouped_mm(grad, torch.stack(weights), offs=ends), None, *by_weight.unbind()
