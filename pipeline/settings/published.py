"""The tensors of a published model: their names in a Hugging Face folder and their shapes."""

from pipeline.settings.model import Model

Shapes = dict[str, tuple[int, ...]]
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def tensor_shapes(model: Model) -> Shapes:
    """Every tensor that a folder of `model` must hold, by name. A tied output layer has no tensor of its own."""
    h = model.hidden_size
    shapes: Shapes = {EMBEDDING: (model.vocab_size, h)}
    for layer in range(model.num_layers):
        shapes |= _layer(model, f"model.layers.{layer}")
    shapes["model.norm.weight"] = (h,)
    if not model.tie_word_embeddings:
        shapes[HEAD] = (model.vocab_size, h)
    return shapes


def _layer(model: Model, name: str) -> Shapes:
    h, d, experts = model.hidden_size, model.head_dim, model.experts
    queries, keys = model.num_attention_heads * d, model.num_query_groups * d
    shapes: Shapes = {f"{name}.{norm}_layernorm.weight": (h,) for norm in ("input", "post_attention")}
    for part, width in (("q", queries), ("k", keys), ("v", keys)):
        shapes[f"{name}.self_attn.{part}_proj.weight"] = (width, h)
        if model.qkv_bias:
            shapes[f"{name}.self_attn.{part}_proj.bias"] = (width,)
    shapes[f"{name}.self_attn.o_proj.weight"] = (h, queries)
    if model.qk_norm:
        shapes |= {f"{name}.self_attn.{part}_norm.weight": (d,) for part in "qk"}
    if not experts.count:
        return shapes | _mlp(f"{name}.mlp", h, model.ffn_hidden_size)
    shapes[f"{name}.mlp.gate.weight"] = (experts.count, h)
    for expert in range(experts.count):
        shapes |= _mlp(f"{name}.mlp.experts.{expert}", h, experts.ffn_hidden_size)
    return shapes


def _mlp(name: str, hidden: int, width: int) -> Shapes:
    return {
        f"{name}.gate_proj.weight": (width, hidden),
        f"{name}.up_proj.weight": (width, hidden),
        f"{name}.down_proj.weight": (hidden, width),
    }
