"""A mixture-of-experts layer for decoding: the layer's own router and experts, with one all-reduce and no token
exchange.

Training sends each token to the ranks that hold its experts. In decoding every rank of a replica holds every row, so
each computes the part of its own experts, and the parts are summed.
"""

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from megatron.core import parallel_state


def mixture(layer: Any, x: torch.Tensor) -> torch.Tensor:
    """Applies Megatron's MoELayer to x [T, h], and sums over the ranks that share its experts: [T, h], dtype of x."""
    weights, routing = layer.router(x[:, None])
    out = torch.zeros_like(x)
    # Sorted by expert, then by row, with two synchronisations for all. Asking each expert for its rows needs one each.
    chosen = routing[:, layer.local_expert_indices].t()
    _, all_rows = chosen.nonzero(as_tuple=True)
    shares = all_rows.split(chosen.sum(1).tolist())
    for number, (fc1, fc2), rows in zip(layer.local_expert_indices, _weights(layer.experts), shares, strict=True):
        if rows.numel() == 0:
            continue
        gate, up = F.linear(x[rows], fc1).chunk(2, -1)
        # Upstream scales the activation by the routing weight, before the second product (transformer/mlp.py:214).
        inner = (F.silu(gate) * up * weights[rows, number, None]).to(x.dtype)
        out.index_add_(0, rows, F.linear(inner, fc2))
    group = parallel_state.get_expert_tensor_and_model_parallel_group()
    if group.size() > 1:
        dist.all_reduce(out, group=group)
    return out


def _weights(experts: Any) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """fc1 [2f, h] and fc2 [h, f] of each expert, whose modules are one each, or Transformer Engine's one for all."""
    if hasattr(experts, "local_experts"):
        return [(one.linear_fc1.weight, one.linear_fc2.weight) for one in experts.local_experts]
    names = [f"weight{number}" for number in range(experts.num_local_experts)]
    return [(getattr(experts.linear_fc1, name), getattr(experts.linear_fc2, name)) for name in names]
