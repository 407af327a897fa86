"""Core attention on torch's scaled_dot_product_attention (patch `core-attention`): padded or packed rows, context parallel,
grouped queries, CPU and GPU.

Layouts are Megatron's: padded rows come as [s, b, heads, d], packed rows as [t, heads, d] with cumulative lengths. Under
context parallelism of size c each sequence is cut into 2c pieces and rank r holds pieces r and 2c-1-r (zig-zag), so that
the causal work is even; keys and values are all-gathered, which needs no ring and is exact.
"""

import math

import torch
import torch.distributed as dist
import torch.nn.functional as F
from megatron.core import parallel_state
from megatron.core.packed_seq_params import PackedSeqParams
from megatron.core.transformer.module import MegatronModule


class SdpaCoreAttention(MegatronModule):
    """Drop-in for `DotProductAttention` (megatron-core 0.16.1, transformer/dot_product_attention.py:26) in a layer spec."""

    def __init__(
        self,
        config,
        layer_number: int,
        attn_mask_type,
        attention_type,
        attention_dropout: float | None = None,
        softmax_scale: float | None = None,
        cp_comm_type: str | None = None,
        pg_collection=None,
    ):
        super().__init__(config=config)
        dropout = attention_dropout or config.attention_dropout
        assert not dropout, "a policy gradient needs dropout off"
        has_group = pg_collection is not None and hasattr(pg_collection, "cp")
        self.cp_group = pg_collection.cp if has_group else parallel_state.get_context_parallel_group()
        self.softmax_scale = softmax_scale or 1.0 / math.sqrt(config.kv_channels)

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        attn_mask_type=None,
        attention_bias: torch.Tensor | None = None,
        packed_seq_params: PackedSeqParams | None = None,
    ) -> torch.Tensor:
        """Causal attention; `attention_mask` is ignored, since rows are right-padded and padding is never a target.

        query [s, b, n, d] with key, value [s, b, g, d] gives [s, b, n*d]; packed: [t, n, d] gives [t, n*d].
        """
        assert attention_bias is None, "attention bias is not supported"
        if packed_seq_params is not None:
            return self._packed(query, key, value, packed_seq_params)
        out = self._rows(query, key, value)
        return out.reshape(*out.shape[:2], -1)

    def _rows(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        mask = None
        if self.cp_group.size() > 1:
            key, value = self._gather_sequence(key), self._gather_sequence(value)
            positions = torch.arange(key.shape[0], device=query.device)
            mask = positions[None, :] <= self._local_positions(query.shape[0], query.device)[:, None]
        q, k, v = (x.permute(1, 2, 0, 3) for x in (query, key, value))
        out = F.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=mask,
            is_causal=mask is None,
            scale=self.softmax_scale,
            enable_gqa=q.shape[1] != k.shape[1],
        )
        return out.permute(2, 0, 1, 3)

    def _packed(self, query, key, value, packed: PackedSeqParams) -> torch.Tensor:
        padded = packed.cu_seqlens_q_padded
        bounds = padded if padded is not None else packed.cu_seqlens_q
        lengths = ((bounds[1:] - bounds[:-1]) // self.cp_group.size()).tolist()
        if self.cp_group.size() == 1 and query.is_cuda:
            return self._jagged(query, key, value, bounds, max(lengths))
        parts = zip(query.split(lengths), key.split(lengths), value.split(lengths), strict=True)
        out = torch.cat([self._rows(q[:, None], k[:, None], v[:, None])[:, 0] for q, k, v in parts])
        return out.reshape(out.shape[0], -1)

    def _jagged(self, query, key, value, bounds: torch.Tensor, longest: int) -> torch.Tensor:
        """One variable-length kernel for all sequences instead of one launch each (CUDA)."""
        groups = query.shape[1] // key.shape[1]
        if groups > 1:
            key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
        q, k, v = (
            torch.nested.nested_tensor_from_jagged(x, bounds.long(), max_seqlen=longest).transpose(1, 2)
            for x in (query, key, value)
        )
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=self.softmax_scale)
        values = out.transpose(1, 2).values()
        return values.reshape(values.shape[0], -1)

    def _gather_sequence(self, x: torch.Tensor) -> torch.Tensor:
        """[s/c, ...] zig-zag pieces of every rank -> [s, ...] in natural order, differentiable."""
        size = self.cp_group.size()
        pieces: list[torch.Tensor | None] = [None] * (2 * size)
        for rank, part in enumerate(_AllGather.apply(x, self.cp_group).chunk(size, 0)):
            pieces[rank], pieces[2 * size - 1 - rank] = part.chunk(2, 0)
        return torch.cat(pieces, 0)  # type: ignore[arg-type]

    def _local_positions(self, length: int, device: torch.device) -> torch.Tensor:
        """Natural positions of this rank's `length` zig-zag tokens, int64 [length]."""
        size, rank, piece = self.cp_group.size(), self.cp_group.rank(), length // 2
        first = torch.arange(rank * piece, (rank + 1) * piece, device=device)
        last = torch.arange((2 * size - 1 - rank) * piece, (2 * size - rank) * piece, device=device)
        return torch.cat([first, last])


class _AllGather(torch.autograd.Function):
    """[s, ...] of each rank -> [size * s, ...] in rank order; the gradient is summed over ranks and cut again.

    torch.distributed.nn's own all_gather takes group ranks for global ones in its backward over gloo (2.13).
    """

    @staticmethod
    def forward(ctx, x: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
        ctx.group = group
        whole = x.new_empty(group.size() * x.shape[0], *x.shape[1:])
        dist.all_gather_into_tensor(whole, x.contiguous(), group=group)
        return whole

    @staticmethod
    def backward(ctx, grad: torch.Tensor):  # type: ignore[override]
        part = grad.new_empty(grad.shape[0] // ctx.group.size(), *grad.shape[1:])
        dist.reduce_scatter_tensor(part, grad.contiguous(), group=ctx.group)
        return part, None
