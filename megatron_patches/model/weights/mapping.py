"""Declares, for each Megatron parameter, its Hugging Face tensors and how it is made of them.

Megatron fuses query, key and value into one matrix interleaved by key/value group (`q q k v | q q k v | ...`, see
transformer/attention.py:1399 of megatron-core 0.16.1), and the gated MLP's gate and up projections into one matrix whose
halves are each cut over tensor-parallel ranks. Everything else is a copy, whole or cut along one dimension.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch

from pipeline.settings import Model

Kind = Literal["copy", "rows", "columns", "vocab", "qkv", "gate_up"]
"""copy: the same on every rank; rows / columns: cut along dim 0 / 1; vocab: rows, padded to the tensor-parallel size."""


@dataclass(frozen=True)
class Entry:
    """One Megatron parameter (global layer and expert numbers in its name) and its Hugging Face tensors, in order."""

    name: str
    hf: tuple[str, ...]
    kind: Kind


FUSED_NORMS = {
    "self_attention.linear_qkv.layer_norm_weight": "input_layernorm.weight",
    "mlp.linear_fc1.layer_norm_weight": "pre_mlp_layernorm.weight",
}
"""Transformer Engine's names of a layer's norms -> the local ones."""
GROUPED = re.compile(r"\.experts\.(linear_fc[12])\.weight(\d+)$")
"""Its names of an expert's weights where all experts of a rank are one module."""


def canonical(name: str) -> str:
    """The local name of a parameter, whichever modules hold it."""
    for theirs, ours in FUSED_NORMS.items():
        if name.endswith(f".{theirs}"):
            return name.removesuffix(theirs) + ours
    return GROUPED.sub(r".experts.local_experts.\2.\1.weight", name)


def entries(model: Model) -> list[Entry]:
    """All parameters of `model`, embedding first; a tied output layer has no entry."""
    found = [Entry("embedding.word_embeddings.weight", ("model.embed_tokens.weight",), "vocab")]
    for layer in range(model.num_layers):
        found += _layer(model, layer)
    found.append(Entry("decoder.final_layernorm.weight", ("model.norm.weight",), "copy"))
    if not model.tie_word_embeddings:
        found.append(Entry("output_layer.weight", ("lm_head.weight",), "vocab"))
    return found


def _layer(model: Model, layer: int) -> list[Entry]:
    ours, theirs = f"decoder.layers.{layer}", f"model.layers.{layer}"
    qkv = tuple(f"{theirs}.self_attn.{part}_proj" for part in "qkv")
    found = [
        Entry(f"{ours}.input_layernorm.weight", (f"{theirs}.input_layernorm.weight",), "copy"),
        Entry(f"{ours}.self_attention.linear_qkv.weight", tuple(f"{name}.weight" for name in qkv), "qkv"),
        Entry(f"{ours}.self_attention.linear_proj.weight", (f"{theirs}.self_attn.o_proj.weight",), "columns"),
        Entry(f"{ours}.pre_mlp_layernorm.weight", (f"{theirs}.post_attention_layernorm.weight",), "copy"),
    ]
    if model.qkv_bias:
        found.append(Entry(f"{ours}.self_attention.linear_qkv.bias", tuple(f"{name}.bias" for name in qkv), "qkv"))
    if model.qk_norm:
        found += [
            Entry(f"{ours}.self_attention.{part}_layernorm.weight", (f"{theirs}.self_attn.{part}_norm.weight",), "copy")
            for part in "qk"
        ]
    if model.experts.count:
        found.append(Entry(f"{ours}.mlp.router.weight", (f"{theirs}.mlp.gate.weight",), "copy"))
        for expert in range(model.experts.count):
            found += _mlp(f"{ours}.mlp.experts.local_experts.{expert}", f"{theirs}.mlp.experts.{expert}")
    else:
        found += _mlp(f"{ours}.mlp", f"{theirs}.mlp")
    return found


def _mlp(ours: str, theirs: str) -> list[Entry]:
    return [
        Entry(f"{ours}.linear_fc1.weight", (f"{theirs}.gate_proj.weight", f"{theirs}.up_proj.weight"), "gate_up"),
        Entry(f"{ours}.linear_fc2.weight", (f"{theirs}.down_proj.weight",), "columns"),
    ]


def cut(entry: Entry, tensors: list[torch.Tensor], model: Model, rank: int, size: int) -> torch.Tensor:
    """Whole Hugging Face tensors -> rank `rank`'s shard of `size` of the Megatron parameter."""
    if entry.kind == "copy":
        return tensors[0]
    if entry.kind == "rows":
        return tensors[0].chunk(size, 0)[rank]
    if entry.kind == "columns":
        return tensors[0].chunk(size, 1)[rank]
    if entry.kind == "qkv":
        return _interleave(tensors, model).chunk(size, 0)[rank]
    if entry.kind == "gate_up":
        return torch.cat([half.chunk(size, 0)[rank] for half in tensors])
    raise AssertionError(entry.kind)  # vocab is cut with its padding, in fill_vocab


Cat = Callable[[list[torch.Tensor], int], torch.Tensor]
"""torch.cat, or one that puts its result where the caller wants it."""


def join(entry: Entry, shards: list[torch.Tensor], model: Model, cat: Cat = torch.cat) -> list[torch.Tensor]:
    """All ranks' shards of a Megatron parameter, in rank order -> its Hugging Face tensors. Inverse of `cut`.

    All memory that the tensors take is `cat`'s; what it gives may be the shards' own.
    """
    if entry.kind == "copy":
        return [shards[0]]
    if entry.kind == "rows":
        return [cat(shards, 0)]
    if entry.kind == "columns":
        return [cat(shards, 1)]
    if entry.kind == "vocab":
        return [cat(shards, 0)[: model.vocab_size]]
    if entry.kind == "qkv":
        return _separate(shards, model, cat)
    halves = [shard.chunk(2) for shard in shards]
    return [cat([gate for gate, _ in halves], 0), cat([up for _, up in halves], 0)]


def fill_vocab(shard: torch.Tensor, whole: torch.Tensor, rank: int) -> None:
    """Copies this rank's rows of the embedding `whole` [vocab, h] into `shard` [padded vocab / size, h]; the rest is 0."""
    first = rank * shard.shape[0]
    rows = whole[first : first + shard.shape[0]]
    shard.zero_()
    shard[: rows.shape[0]].copy_(rows)


def _interleave(qkv: list[torch.Tensor], model: Model) -> torch.Tensor:
    """q [n*d, ...], k and v [g*d, ...] -> [g * (n/g + 2) * d, ...]."""
    groups, tail = model.num_query_groups, qkv[0].shape[1:]
    q, k, v = (x.reshape(groups, -1, *tail) for x in qkv)
    return torch.cat([q, k, v], 1).reshape(-1, *tail)


def _separate(shards: list[torch.Tensor], model: Model, cat: Cat) -> list[torch.Tensor]:
    """[g * (n/g + 2) * d, ...], cut into shards of whole heads -> q [n*d, ...], k and v [g*d, ...]."""
    heads = [head for shard in shards for head in shard.split(model.head_dim)]
    queries = model.num_attention_heads // model.num_query_groups
    step = queries + 2
    q = [head for i, head in enumerate(heads) if i % step < queries]
    return [cat(q, 0), cat(heads[queries::step], 0), cat(heads[queries + 1 :: step], 0)]
