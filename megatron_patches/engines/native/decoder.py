"""The forward for generation on the model's own weights: whole prompts, then one token per row on cached keys and
values.

GPTModel.forward needs an inference context, CUDA kernels for mixed lengths, and a module call with autograd hooks for
every projection. Here each projection is one matrix product with the module's own weight, so a step of a small model
costs its arithmetic and little Python. Sequence parallelism does not affect this path.
"""

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from megatron.core import parallel_state

from megatron_patches.engines.native.attention import cached_attention, prompt_attention
from megatron_patches.engines.native.cache import Cache
from megatron_patches.engines.native.collectives import Ranks
from megatron_patches.engines.native.experts import mixture
from megatron_patches.engines.native.layers import Layer, Norm
from megatron_patches.engines.native.products import Products
from megatron_patches.engines.native.sampler import Sampled


class Decoder:
    """This rank's tensor-parallel shard of the model, for rows of mixed lengths.

    n, g: query and key/value heads of this rank; d: head size; h: hidden size; V: real vocabulary; R: live rows; t:
        those that this rank samples. Activations are in the model's dtype.
    """

    def __init__(self, chunk: Any, vocab_size: int, timeout_s: float = 1800.0):
        config = chunk.config
        self.chunk, self.vocab_size = chunk, vocab_size
        self.layer_count = len(chunk.decoder.layers)
        self.dtype: torch.dtype = config.params_dtype
        self.device = chunk.embedding.word_embeddings.weight.device
        size = sum(parameter.nbytes for parameter in chunk.parameters())
        self.products = Products(self.device, self.dtype, size)
        self.ranks = Ranks(parallel_state.get_tensor_model_parallel_group(), self.device, timeout_s)
        self.experts = parallel_state.get_expert_tensor_and_model_parallel_group()
        self.tp = self.ranks.size
        self.d: int = config.kv_channels
        self.n: int = config.num_attention_heads // self.tp
        self.g: int = max(config.num_query_groups // self.tp, 1)
        self.ranks_per_head = max(self.tp // config.num_query_groups, 1)
        """Ranks that share one key/value head; more than one if tp exceeds the number of those heads."""
        self.cos, self.sin = self._rope_tables(1)
        self.layers: list[Layer] = []

    def begin(self) -> None:
        """Prepares for a `generate`: finds the layers, once, and discards packed weights that have changed."""
        self.products.refresh()
        if self.layers:
            return
        self.layers = [Layer.of(module) for module in self.chunk.decoder.layers]
        self.final_norm = Norm(self.chunk.decoder.final_layernorm)
        tied = self.chunk.share_embeddings_and_output_weights
        self.vocabulary: torch.Tensor = (
            self.chunk.shared_embedding_or_output_weight() if tied else self.chunk.output_layer.weight
        )

    def forget(self) -> None:
        """Discards everything derived from the weights; the next `begin` makes it again."""
        self.layers = []
        self.products.forget()

    def bytes_per_token(self) -> int:
        """Returns the cache bytes of one position on this rank."""
        return self.layer_count * self.g * 2 * self.d * self.dtype.itemsize

    # One token a row -------------------------------------------------------------------------------------------------

    def step(self, tokens: torch.Tensor, positions: torch.Tensor, cache: Cache, longest: int) -> torch.Tensor:
        """Feeds token r to row r of the cache at its position, int64 [R] each. `longest` is the largest position plus
        one.

        Returns the next logits, fp32 [t, V], of the rows that this rank samples (`ranks.rows(R)`).
        """
        rows = tokens.shape[0]
        self._reach(longest)
        cos, sin = self._rotation(self.cos[positions], self.sin[positions])
        # Positions are the same for all layers: rotation, bias and cache indices are computed once.
        bias = cache.bias(positions, longest)
        places = cache.places(positions)
        x = self._embed(tokens)
        cached = cache.read(rows, longest)
        for number, (layer, (keys, values)) in enumerate(zip(self.layers, cached, strict=True)):
            q, kv = self._query_key_value(layer, x, cos, sin)
            cache.write(number, places, kv)  # before the attention: keys and values are views and show it
            x = self._rest_of_layer(layer, x, cached_attention(q, keys, values, bias))
        return self._logits(self.final_norm(x))

    def together(self, chosen: Sampled, rows: int) -> Sampled:
        """Gathers what each rank sampled for its part of the rows: `Sampled` of all `rows`, the same on every rank."""
        twofold = chosen.raw_logps is not chosen.logps
        parts = [chosen.tokens, chosen.logps] + [chosen.raw_logps] * twofold
        if self.tp > 1:  # one collective for all, as fp64, which holds each of them exactly
            parts = list(self.ranks.together(torch.stack([part.double() for part in parts], 1), rows).unbind(1))
        tokens = parts[0].long()
        if tokens.is_cuda and self.experts.size() > self.tp:
            # Ranks that share experts but not tensors each sample the same rows. Cumulative sums on CUDA are not
            # deterministic, so all use the first rank's tokens.
            dist.broadcast(tokens, group=self.experts, group_src=0)
        logps = parts[1].float()
        return Sampled(tokens, logps, parts[2].float() if twofold else logps)

    # Whole prompts ---------------------------------------------------------------------------------------------------

    def prefill(self, ids: torch.Tensor) -> torch.Tensor:
        """Computes keys and values of right-padded prompts: int64 [B, L] -> [layers, B, g, 2, L, d].

        Those of padding are never read: causal attention and the cache's bias hide them until decoding overwrites them.
        """
        batch, length = ids.shape
        self._reach(length)
        cos, sin = self._rotation(*(table[:length].repeat(batch, 1, 1) for table in (self.cos, self.sin)))
        stash = torch.empty((self.layer_count, batch, self.g, 2, length, self.d), dtype=self.dtype, device=self.device)
        x = self._embed(ids.flatten())
        for number, layer in enumerate(self.layers):
            q, kv = self._query_key_value(layer, x, cos, sin)
            stash[number] = kv.view(batch, length, self.g, 2, self.d).permute(0, 2, 3, 1, 4)
            if number + 1 < self.layer_count:  # the last layer's output is not needed
                out = prompt_attention(q.reshape(batch, length, self.n, self.d), stash[number])
                x = self._rest_of_layer(layer, x, out.reshape(batch * length, -1))
        return stash

    # Parts -----------------------------------------------------------------------------------------------------------

    def _query_key_value(
        self, layer: Layer, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Computes rotated queries [T, g, n/g, d] and [T, g, 2, d] (rotated key, then value) of x [T, h]."""
        mixed = self.products(layer.input_norm(x), layer.qkv, layer.qkv_bias)
        per_head = self.n // self.g
        # Upstream's linear_qkv orders rows by key/value head: its n/g queries, its key, its value. With more ranks than
        # such heads, one head's rows are on several ranks: gather them, then keep this rank's queries and the key and
        # value, as upstream does (transformer/attention.py:1398).
        if self.ranks_per_head > 1:
            mixed = self.ranks.gather(mixed).view(x.shape[0], -1, (per_head * self.ranks_per_head + 2) * self.d)
            mixed = mixed[:, self.ranks.rank // self.ranks_per_head].view(x.shape[0], 1, -1, self.d)
            first = self.ranks.rank % self.ranks_per_head * per_head
            mixed = torch.cat([mixed[:, :, first : first + per_head], mixed[:, :, -2:]], 2)
        else:
            mixed = mixed.view(x.shape[0], self.g, per_head + 2, self.d)
        if layer.q_norm is not None:
            q, k = layer.q_norm(mixed[:, :, :per_head]), layer.k_norm(mixed[:, :, per_head:-1])
            mixed = torch.cat([q, k, mixed[:, :, -1:]], 2)
        # Queries, key and value rotate in one operation: `_rotation` has factors 1 and 0 for the value.
        rotated = torch.addcmul(mixed * cos, mixed.roll(self.d // 2, -1), sin)
        return rotated[:, :, :per_head], rotated[:, :, per_head:]

    def _rotation(self, cos: torch.Tensor, sin: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Expands cos and signed sin [T, 1, d] to factors [T, 1, n/g + 2, d], which leave the value unchanged."""
        turning = (-1, self.n // self.g + 1, -1)
        cos = torch.cat([cos.expand(turning), torch.ones_like(cos)], 1)
        return cos[:, None], torch.cat([sin.expand(turning), torch.zeros_like(sin)], 1)[:, None]

    def _rest_of_layer(self, layer: Layer, x: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
        """Computes a layer after its attention: x [T, h], attended [T, n * d] -> [T, h]."""
        x = self._add_row_parallel(x, attended, layer.proj)
        normed = layer.mlp_norm(x)
        if layer.fc1 is None or layer.fc2 is None:
            return x + mixture(layer.experts, normed)
        gate, up = self.products(normed, layer.fc1).chunk(2, -1)
        return self._add_row_parallel(x, F.silu(gate).mul_(up), layer.fc2)

    def _add_row_parallel(self, x: torch.Tensor, part: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """Computes x + sum over ranks of part @ weight.T."""
        # In fp32 one rank's product starts from x, which saves a pass. In bf16 the product is rounded first, as in the
        # actor's forward.
        if x.dtype == torch.float32:
            first = self.ranks.rank == 0
            return self.ranks.sum(self.products.add(x, part, weight) if first else self.products(part, weight))
        return self.ranks.sum(self.products(part, weight)).add_(x)

    def _embed(self, tokens: torch.Tensor) -> torch.Tensor:
        """Embeds tokens: int64 [T] -> [T, h]."""
        embedding = self.chunk.embedding.word_embeddings
        if self.tp == 1:
            return embedding.weight[tokens]
        # Each rank has a part of the vocabulary and gives zeros for other tokens.
        local = tokens - embedding.vocab_start_index
        here = (local >= 0) & (local < embedding.weight.shape[0])
        return self.ranks.sum(embedding.weight[local.where(here, 0)] * here[:, None])

    def _logits(self, x: torch.Tensor) -> torch.Tensor:
        """Computes logits of this rank's part of the rows, so that each row is sampled once: [R, h] -> fp32 [t, V]."""
        multiply = self.products if self.products.packs else product_fp32
        logits = multiply(x, self.vocabulary)
        return self.ranks.regroup(logits)[:, : self.vocab_size]

    def _reach(self, length: int) -> None:
        """Extends the rope tables to positions below `length`, at least doubling them."""
        if length > self.cos.shape[0]:
            self.cos, self.sin = self._rope_tables(max(length, 2 * self.cos.shape[0]))

    def _rope_tables(self, length: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Computes cos and sin, [length, 1, d] in the model's dtype, from fp32 angles as upstream does.

        sin has the sign of rotate_half, so that swapping the halves is a roll.
        """
        inv_freq = self.chunk.rotary_pos_emb.inv_freq.to(self.device)
        angles = torch.outer(torch.arange(length, device=self.device, dtype=inv_freq.dtype), inv_freq)
        cos, sin = angles.cos(), angles.sin()
        cos, sin = torch.cat([cos, cos], -1), torch.cat([-sin, sin], -1)
        return cos[:, None].to(self.dtype), sin[:, None].to(self.dtype)


def product_fp32(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Computes x [T, h] @ weight [v, h].T in fp32, even for 16-bit operands, as the policy head does.

    Rounding logits to bf16 would shift log-probs by up to 0.1.
    """
    if x.dtype == torch.float32:
        return F.linear(x, weight)
    if x.is_cuda:
        return torch.mm(x, weight.t(), out_dtype=torch.float32)
    wide = x.float()
    return torch.cat([F.linear(wide, tile.float()) for tile in weight.split(8192)], -1)
