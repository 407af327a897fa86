"""Tiny GGUF files, written with the package `gguf` as llama.cpp's converter lays the models out."""

from pathlib import Path
from typing import Any

import numpy as np
from tiny_models import hf_model, tiny_model

SPECIAL = ["<|endoftext|>", "<|im_end|>"]
NAMES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm", "mlp.gate": "ffn_gate_inp", "mlp.experts.down_proj": "ffn_down_exps",
}  # fmt: skip


def vocabulary() -> tuple[list[str], list[str]]:
    """Tokens and merges of a byte-level tokenizer: two special tokens, all bytes, and `he`."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    return [*SPECIAL, *bytes_to_unicode().values(), "he"], ["h e"]


def tiny(family: str, **changes: Any) -> Any:
    """A transformers model of the vocabulary's size, two layers, in fp32."""
    if family == "qwen3":
        changes |= {"head_dim": 128}  # GGUF's keys for it are not read for this family
    if family == "qwen3_moe":
        changes |= {"experts": {"count": 4, "per_token": 2, "ffn_hidden_size": 768}}  # neither is the experts' width
    return hf_model(tiny_model(family, vocab_size=len(vocabulary()[0]), **changes))


def architecture_of(hf: Any) -> str:
    return hf.config.model_type.replace("_", "")


def tensors_of(hf: Any) -> dict[str, np.ndarray]:
    """Its weights by GGUF name; the rows of a Llama's query and key heads in llama.cpp's order (pairs side by side)."""
    config, found = hf.config, {}
    for name, tensor in hf.state_dict().items():
        data = tensor.float().numpy()
        if name == "lm_head.weight":
            if not config.tie_word_embeddings:
                found["output.weight"] = data
            continue
        stem = name.removeprefix("model.").removesuffix(".weight").removesuffix(".bias")
        end = ".bias" if name.endswith(".bias") else ".weight"
        if not stem.startswith("layers."):
            found[{"embed_tokens": "token_embd", "norm": "output_norm"}[stem] + end] = data
            continue
        _, number, part = stem.split(".", 2)
        if part == "mlp.experts.gate_up_proj":
            gate, up = np.split(data, 2, axis=1)
            found[f"blk.{number}.ffn_gate_exps.weight"], found[f"blk.{number}.ffn_up_exps.weight"] = gate, up
            continue
        heads = {"self_attn.q_proj": config.num_attention_heads, "self_attn.k_proj": config.num_key_value_heads}
        if config.model_type == "llama" and part in heads:
            data = data.reshape(heads[part], 2, -1, data.shape[1]).swapaxes(1, 2).reshape(data.shape)
        found[f"blk.{number}.{NAMES[part]}{end}"] = data
    return found


def settings_of(hf: Any) -> dict[str, Any]:
    """The keys that llama.cpp's converter writes for it, without the tokenizer's."""
    config = hf.config
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    keys = {
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "block_count": config.num_hidden_layers,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "rope.freq_base": config.rope_parameters["rope_theta"],
    }
    if config.model_type == "llama":
        keys |= {"rope.dimension_count": head_dim, "vocab_size": config.vocab_size}
    if config.model_type.startswith("qwen3"):
        keys |= {"attention.key_length": head_dim, "attention.value_length": head_dim}
    if config.model_type == "qwen3_moe":
        keys |= {
            "expert_count": config.num_experts,
            "expert_used_count": config.num_experts_per_tok,
            "expert_feed_forward_length": config.moe_intermediate_size,
        }
    return {f"{architecture_of(hf)}.{key}": value for key, value in keys.items()}


def write(
    path: Path,
    tensors: dict[str, np.ndarray],
    settings: dict[str, Any],
    architecture: str = "llama",
    quantized: str | None = None,
    tokenizer: bool = True,
) -> Path:
    """Writes the file; matrices of `quantized` (Q8_0, ...) blocks, all else in fp32."""
    import gguf

    writer = gguf.GGUFWriter(path, architecture)
    for key, value in settings.items():
        add = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
        add[type(value)](key, value)
    if tokenizer:
        tokens, merges = vocabulary()
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("smollm")
        writer.add_token_list(tokens)
        writer.add_token_types([3] * len(SPECIAL) + [1] * (len(tokens) - len(SPECIAL)))
        writer.add_token_merges(merges)
        writer.add_bos_token_id(0)
        writer.add_eos_token_id(1)
    for name, data in tensors.items():
        if quantized is not None and data.ndim == 2:
            kind = gguf.GGMLQuantizationType[quantized]
            writer.add_tensor(name, gguf.quants.quantize(data, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
