"""Attention for generation: one query per row on cached keys, and causal attention inside prompts.

Query heads that share a key/value head count as several queries on the same keys, so keys are never copied.
"""

import torch
import torch.nn.functional as F


def cached_attention(q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Attends from one position per row: q [R, g, n/g, d], keys and values [R, g, L, d] and bias [R, 1, 1, L] (0 or
    -inf), all of one floating dtype -> [R, n * d]."""
    mask = bias.expand(*q.shape[:3], keys.shape[2])
    return F.scaled_dot_product_attention(q, keys, values, attn_mask=mask).flatten(1)


def prompt_attention(q: torch.Tensor, kv: torch.Tensor) -> torch.Tensor:
    """Attends causally inside prompts: q [B, L, n, d], kv [B, g, 2, L, d] of one floating dtype -> [B, L, n * d]."""
    keys, values = kv.unbind(2)
    out = F.scaled_dot_product_attention(
        q.transpose(1, 2), keys, values, is_causal=True, enable_gqa=q.shape[2] != keys.shape[1]
    )
    return out.transpose(1, 2).flatten(2)
