"""Attention of generation: one query a row on cached keys, and causal attention inside prompts.

Query heads of one key/value head are treated as several queries on the same keys, so that keys are never repeated.
"""

import torch
import torch.nn.functional as F


def cached_attention(q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """q [R, g, n/g, d], keys and values [R, g, L, d], bias [R, 1, 1, L] (0 or -inf) -> [R, n * d]."""
    rows, groups, per_head, d = q.shape
    if q.device.type == "cpu" and q.dtype == torch.float32:
        # Two batched products and a softmax beat torch's CPU kernel by a third at one query a row.
        length = keys.shape[2]
        scores = torch.baddbmm(
            bias.expand(rows, groups, 1, length).reshape(rows * groups, 1, length),
            q.reshape(rows * groups, per_head, d),
            keys.flatten(0, 1).transpose(1, 2),
            alpha=d**-0.5,
        )
        return torch.bmm(scores.softmax(-1), values.flatten(0, 1)).view(rows, -1)
    mask = bias.expand(rows, groups, per_head, keys.shape[2])
    return F.scaled_dot_product_attention(q, keys, values, attn_mask=mask).reshape(rows, -1)


def prompt_attention(q: torch.Tensor, kv: torch.Tensor) -> torch.Tensor:
    """Causal: q [B, L, n, d], kv [B, g, L, 2d] -> [B, L, n * d]."""
    keys, values = kv.chunk(2, -1)
    out = F.scaled_dot_product_attention(
        q.transpose(1, 2), keys, values, is_causal=True, enable_gqa=q.shape[2] != keys.shape[1]
    )
    return out.transpose(1, 2).flatten(2)
