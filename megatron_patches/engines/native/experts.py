"""A mixture-of-experts layer for decoding: the layer's own router and experts, one all-reduce and no token exchange.

Training sends each token to the ranks that hold its experts. When decoding, every rank of a replica holds every row
anyway, so each computes what its experts contribute and the contributions are summed.
"""

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from megatron.core import parallel_state


def mixture(layer: Any, x: torch.Tensor) -> torch.Tensor:
    """Megatron's MoELayer on [T, h] -> [T, h], summed over the ranks that share its experts."""
    weights, routing = layer.router(x[:, None])
    out = torch.zeros_like(x)
    # By expert, then by row: asking each expert for its rows would make a GPU wait once an expert.
    chosen = routing[:, layer.local_expert_indices].t()
    _, all_rows = chosen.nonzero(as_tuple=True)
    shares = all_rows.split(chosen.sum(1).tolist())
    for number, expert, rows in zip(layer.local_expert_indices, layer.experts.local_experts, shares, strict=True):
        if rows.numel() == 0:
            continue
        gate, up = F.linear(x[rows], expert.linear_fc1.weight).chunk(2, -1)
        # Upstream scales the activation by the routing weight, before the second product (transformer/mlp.py:214).
        inner = (F.silu(gate) * up * weights[rows, number, None]).to(x.dtype)
        out.index_add_(0, rows, F.linear(inner, expert.linear_fc2.weight))
    group = parallel_state.get_expert_tensor_and_model_parallel_group()
    if group.size() > 1:
        dist.all_reduce(out, group=group)
    return out
