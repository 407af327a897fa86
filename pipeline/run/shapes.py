"""Parameter counts from a model's shape: whole, and on one rank of a layout."""

from dataclasses import dataclass

from pipeline.settings import Layout, Model

SHAPE_KEYS = tuple(
    f"model.{key}"
    for key in (
        "num_layers", "hidden_size", "ffn_hidden_size", "num_attention_heads", "num_query_groups", "head_dim", "vocab_size",
        "tie_word_embeddings", "qkv_bias", "qk_norm", "experts.count", "experts.ffn_hidden_size",
    )
)  # fmt: skip
"""Settings that decide how many parameters a model has."""


@dataclass(frozen=True)
class Counts:
    """Parameters by the place where parallelism cuts them."""

    embedding: int
    """Word embedding [V, h]; cut over tp, on the first pipeline stage (and, tied, once more on the last)."""
    head: int
    """Output weight [V, h] of an untied model; cut over tp, on the last stage."""
    matrices: int
    """Attention and dense MLP of one layer, with their biases; cut over tp."""
    norms: int
    """Norms (and the router) of one layer; whole on every rank."""
    experts: int
    """Routed experts of one layer; cut over ep."""
    final_norm: int
    layers: int

    @property
    def total(self) -> int:
        return self.embedding + self.head + self.final_norm + self.layers * (self.matrices + self.norms + self.experts)


def count(model: Model) -> Counts:
    """Parameters of the Qwen2, Qwen3, Llama and Qwen3-MoE families as `transformers` builds them.

    Attention: q [heads * d, h], k and v [groups * d, h], o [h, heads * d]; Qwen2 adds biases to q, k, v, Qwen3 adds
    norms of width d to q and k. The MLP is gated: three matrices of [ffn, h].
    """
    h, d = model.hidden_size, model.head_dim
    queries, keys = model.num_attention_heads * d, model.num_query_groups * d
    attention = 2 * h * queries + 2 * h * keys + (queries + 2 * keys if model.qkv_bias else 0)
    experts = model.experts
    return Counts(
        embedding=model.vocab_size * h,
        head=0 if model.tie_word_embeddings else model.vocab_size * h,
        matrices=attention + (0 if experts.count else 3 * h * model.ffn_hidden_size),
        norms=2 * h + (2 * d if model.qk_norm else 0) + experts.count * h,
        experts=experts.count * 3 * h * experts.ffn_hidden_size,
        final_norm=h,
        layers=model.num_layers,
    )


def visited(model: Model) -> int:
    """Parameters without the experts that a token does not visit."""
    counts, experts = count(model), model.experts
    unused = counts.experts * (experts.count - experts.per_token) // experts.count if experts.count else 0
    return counts.total - counts.layers * unused


def on_rank(model: Model, layout: Layout) -> tuple[int, int]:
    """Parameters of the fullest rank, (dense, experts): a stage's layers and whichever is larger, embedding or head.

    The two are told apart because the distributed optimizer spreads them over different groups.
    """
    counts = count(model)
    layers = counts.layers // layout.pp
    ends = counts.embedding + counts.head
    if layout.pp > 1:
        ends = max(counts.embedding, counts.head or counts.embedding)
    dense = layers * (counts.matrices // layout.tp + counts.norms) + ends // layout.tp + counts.final_norm
    return dense, layers * counts.experts // layout.ep
