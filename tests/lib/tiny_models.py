"""Small models of every family, as settings and as randomly initialised Hugging Face models."""

import torch

from pipeline.settings import Model

MOE = {"count": 4, "per_token": 2, "ffn_hidden_size": 32}
FAMILIES: dict[str, dict] = {
    "qwen2": {"qkv_bias": True},
    "qwen3": {"qk_norm": True, "tie_word_embeddings": True},
    "llama": {},
    "qwen3_moe": {"qk_norm": True, "experts": MOE},
}


def tiny_model(family: str, **changes) -> Model:
    """Makes a model of two layers, hidden 64 and 101 tokens (a prime, so that the vocabulary is padded), fp32."""
    shape = {
        "family": family, "num_layers": 2, "hidden_size": 64, "ffn_hidden_size": 96, "num_attention_heads": 4,
        "num_query_groups": 2, "head_dim": 16, "vocab_size": 101, "max_position_embeddings": 256, "dtype": "fp32",
        "parameters": 1,
    }  # fmt: skip
    return Model(**(shape | FAMILIES[family] | changes))


def hf_model(model: Model, seed: int = 0):
    """Makes the same shape in transformers, in eval mode. Norms and biases are perturbed so that a swapped one
    shows."""
    import transformers

    name = {"qwen2": "Qwen2", "qwen3": "Qwen3", "llama": "Llama", "qwen3_moe": "Qwen3Moe"}[model.family]
    options = {
        "vocab_size": model.vocab_size,
        "hidden_size": model.hidden_size,
        "intermediate_size": model.ffn_hidden_size,
        "num_hidden_layers": model.num_layers,
        "num_attention_heads": model.num_attention_heads,
        "num_key_value_heads": model.num_query_groups,
        "max_position_embeddings": model.max_position_embeddings,
        "tie_word_embeddings": model.tie_word_embeddings,
        "rms_norm_eps": model.norm_eps,
        "rope_parameters": {"rope_type": "default", "rope_theta": model.rope.theta},
    }
    if model.rope.scaling == "llama3":
        numbers = model.rope.model_dump(exclude={"theta", "scaling"})
        options["rope_parameters"] = {"rope_type": "llama3", "rope_theta": model.rope.theta, **numbers}
    if model.family != "qwen2":
        options["head_dim"] = model.head_dim
    if model.experts.count:
        options |= {
            "num_experts": model.experts.count,
            "num_experts_per_tok": model.experts.per_token,
            "moe_intermediate_size": model.experts.ffn_hidden_size,
            "norm_topk_prob": model.experts.normalize_top_k,
        }
    torch.manual_seed(seed)
    hf = getattr(transformers, f"{name}ForCausalLM")(getattr(transformers, f"{name}Config")(**options)).eval()
    with torch.no_grad():
        for parameter in hf.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return hf


def hf_tensors(hf) -> dict[str, torch.Tensor]:
    """Returns the state dict with the names of published checkpoints: experts one by one, without tied heads."""
    found = {}
    for name, tensor in hf.state_dict().items():
        if name.endswith("experts.gate_up_proj"):
            base = name.removesuffix("gate_up_proj")
            for expert, both in enumerate(tensor):
                found[f"{base}{expert}.gate_proj.weight"], found[f"{base}{expert}.up_proj.weight"] = both.chunk(2)
        elif name.endswith("experts.down_proj"):
            base = name.removesuffix("down_proj")
            found |= {f"{base}{expert}.down_proj.weight": w for expert, w in enumerate(tensor)}
        elif not (name == "lm_head.weight" and hf.config.tie_word_embeddings):
            found[name] = tensor
    return found
