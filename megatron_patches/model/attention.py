"""Core attention on torch's own kernels (patch `core-attention`): padded or packed rows, context parallel, grouped queries,
CPU and GPU.

Layouts are Megatron's: padded rows come as [s, b, heads, d], packed rows as [t, heads, d] with cumulative lengths. Under
context parallelism of size c each sequence is cut into 2c pieces and rank r holds pieces r and 2c-1-r (zig-zag), so that
the causal work is even; keys and values are all-gathered, which needs no ring and is exact.
"""

import math
from dataclasses import dataclass, field, replace
from itertools import accumulate

import torch
import torch.distributed as dist
import torch.nn.functional as F
from megatron.core import parallel_state
from megatron.core.packed_seq_params import PackedSeqParams
from megatron.core.transformer.module import MegatronModule
from torch.nn.attention.bias import causal_lower_right
from torch.nn.attention.varlen import varlen_attn


@dataclass
class PackedRows(PackedSeqParams):
    """Where each sequence of a packed row lies, on the host and on the device.

    Upstream reads `cu_seqlens_*` as Python numbers, in every layer (models/common/embeddings/rope_utils.py:204), so these
    stay on the host: a device tensor would make the host wait for the device each time. The attention kernel reads
    `device_bounds`.
    """

    lengths: list[int] = field(default_factory=list)
    """Positions of each sequence over all context-parallel ranks, padding included."""
    device_bounds: torch.Tensor | None = None
    """int32 [sequences + 1], the cumulative lengths on the device of the tokens."""

    @classmethod
    def of(cls, lengths: list[int]) -> "PackedRows":
        bounds = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32)
        longest = max(lengths)
        return cls(
            qkv_format="thd", cu_seqlens_q=bounds, cu_seqlens_kv=bounds, max_seqlen_q=longest, max_seqlen_kv=longest,
            lengths=lengths, device_bounds=bounds,
        )  # fmt: skip

    def to(self, device: torch.device, all_bounds: bool = False) -> "PackedRows":
        """With the kernel's copy on `device`; the host's stays. `all_bounds`: kernels of Transformer Engine take the place of
        what reads numbers on the host, so those go too."""
        bounds = self.cu_seqlens_q.to(device)
        theirs = {"cu_seqlens_q": bounds, "cu_seqlens_kv": bounds} if all_bounds else {}
        return replace(self, device_bounds=bounds, **theirs)


HALF = (torch.bfloat16, torch.float16)
"""What the variable-length kernel (FlashAttention) computes in."""
CAUSAL = (-1, 0)
"""Its window: everything to the left, nothing to the right."""


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
        size = self.cp_group.size()
        if size == 1:
            return self._causal(query, key, value)
        # Keys come in natural order, so a piece of queries attends to a prefix of them that ends with the piece itself:
        # causal, aligned at the lower right corner. No mask of the whole length is made, and nothing beyond the prefix.
        key, value = self._gather_sequence(key), self._gather_sequence(value)
        piece, rank = query.shape[0] // 2, self.cp_group.rank()
        ends = [(number + 1) * piece for number in (rank, 2 * size - 1 - rank)]
        parts = [self._causal(q, key[:end], value[:end]) for q, end in zip(query.split(piece), ends, strict=True)]
        return torch.cat(parts)

    def _causal(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """[s, b, n, d], the last s of the keys' positions -> [s, b, n, d]."""
        q, k, v = (x.permute(1, 2, 0, 3) for x in (query, key, value))
        whole = q.shape[2] == k.shape[2]
        out = F.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=None if whole else causal_lower_right(q.shape[2], k.shape[2]),
            is_causal=whole,
            scale=self.softmax_scale,
            enable_gqa=q.shape[1] != k.shape[1],
        )
        return out.permute(2, 0, 1, 3)

    def _packed(self, query, key, value, packed: PackedSeqParams) -> torch.Tensor:
        assert isinstance(packed, PackedRows), "packed rows say on the host where their sequences lie"
        if self.cp_group.size() == 1 and query.device.type != "cpu" and query.dtype in HALF:
            return self._varlen(query, key, value, packed)
        lengths = [length // self.cp_group.size() for length in packed.lengths]
        parts = zip(query.split(lengths), key.split(lengths), value.split(lengths), strict=True)
        out = torch.cat([self._rows(q[:, None], k[:, None], v[:, None])[:, 0] for q, k, v in parts])
        return out.reshape(out.shape[0], -1)

    def _varlen(self, query, key, value, packed: PackedRows) -> torch.Tensor:
        """One variable-length kernel for all sequences instead of one launch each."""
        bounds, longest = packed.device_bounds, packed.max_seqlen_q
        assert bounds is not None
        assert bounds.device == query.device, (
            f"bounds on {bounds.device}, tokens on {query.device}: MicroBatch.to moves both"
        )
        out = varlen_attn(
            query, key, value, bounds, bounds, longest, longest, scale=self.softmax_scale, window_size=CAUSAL,
            enable_gqa=query.shape[1] != key.shape[1],
        )  # fmt: skip
        return out.reshape(out.shape[0], -1)  # type: ignore[union-attr]

    def _gather_sequence(self, x: torch.Tensor) -> torch.Tensor:
        """[s/c, ...] zig-zag pieces of every rank -> [s, ...] in natural order, differentiable."""
        size = self.cp_group.size()
        pieces: list[torch.Tensor | None] = [None] * (2 * size)
        for rank, part in enumerate(_AllGather.apply(x, self.cp_group).chunk(size, 0)):
            pieces[rank], pieces[2 * size - 1 - rank] = part.chunk(2, 0)
        return torch.cat(pieces, 0)  # type: ignore[arg-type]


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
