"""Variants of small Hugging Face folders: each key of config.json that changes the function, set to another value.

A variant is (family, values given to the transformers config before the weights are made, values written into config.json
afterwards, the key that a refusal must name).
"""

from dataclasses import dataclass, field
from typing import Any

LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}  # fmt: skip


@dataclass(frozen=True)
class Variant:
    """One folder."""

    family: str
    name: str
    """The key that a refusal must name."""
    made_with: dict[str, Any] = field(default_factory=dict)
    written: dict[str, Any] = field(default_factory=dict)
    label: str = ""

    @property
    def id(self) -> str:
        values = self.made_with | self.written
        return f"{self.family}-{self.name}-{self.label or '-'.join(str(values.get(self.name, '')).split())[:24]}"


def _all(name: str, families: str = "qwen2 qwen3 llama qwen3_moe", label: str = "", **values: Any) -> list[Variant]:
    return [Variant(family, name, values, label=label) for family in families.split()]


def _written(name: str, families: str, label: str = "", **values: Any) -> list[Variant]:
    return [Variant(family, name, written=values, label=label) for family in families.split()]


DEFAULT, WINDOW = {"rope_type": "default", "rope_theta": 10000.0}, {"use_sliding_window": True, "sliding_window": 8}
EVERY = "qwen2 qwen3 llama qwen3_moe"
DENSE = "qwen2 qwen3 llama"
VARIANTS = [
    *_all("nothing", label="as the preset"),
    # Biases, activations, norms.
    *_all("attention_bias", "qwen3 llama qwen3_moe", attention_bias=True),
    *_written("attention_bias", "qwen2", attention_bias=True),
    *_all("mlp_bias", "llama", mlp_bias=True),
    *_all("hidden_act", hidden_act="gelu"),
    *_all("hidden_act", hidden_act="gelu_pytorch_tanh"),
    *_all("hidden_act", "llama", hidden_act="relu"),
    *_all("rms_norm_eps", rms_norm_eps=1e-3),
    *_all("rms_norm_eps", "llama qwen3", rms_norm_eps=9.999999974752427e-07, label="1e-6 in fp32"),
    # Rotary embedding.
    *_all("rope_theta", rope_parameters={"rope_type": "default", "rope_theta": 500000.0}, label="500000"),
    *_all("rope_type", rope_parameters=DEFAULT | {"rope_type": "linear", "factor": 4.0}, label="linear"),
    *_all("rope_type", DENSE, rope_parameters=DEFAULT | {"rope_type": "dynamic", "factor": 4.0}, label="dynamic"),
    *_all("rope_type", DENSE, rope_parameters=DEFAULT | {"rope_type": "yarn", "factor": 4.0}, label="yarn"),
    *_all("rope_type", "llama qwen3", rope_parameters=LLAMA3, label="llama3"),
    *_all("rope_type", "llama qwen3", rope_parameters=LLAMA3 | {"factor": 32.0}, label="factor 32"),
    *_all("rope_type", "llama", rope_parameters=LLAMA3 | {"low_freq_factor": 2.0}, label="low_freq_factor 2"),
    *_written("rope_theta", EVERY, rope_parameters=None, rope_theta=7.0, label="older spelling"),
    *_written("rope_theta", "llama", rope_theta=7.0, label="both spellings"),
    *_written("rope_type", "llama", rope_parameters=None, rope_scaling={"type": "linear", "factor": 2.0}, label="older"),
    *_written("partial_rotary_factor", DENSE, partial_rotary_factor=0.5),
    *_written("partial_rotary_factor", "llama", rope_parameters=DEFAULT | {"partial_rotary_factor": 0.5}, label="inside"),
    *_written("attention_factor", "llama", rope_parameters=LLAMA3 | {"attention_factor": 2.0}, label="2"),
    *_written("rope_interleaved", "llama", rope_interleaved=True),
    # Windows and the context.
    *_all("sliding_window", "qwen2 qwen3", **WINDOW, max_window_layers=0, label="window 8"),
    *_all("sliding_window", "qwen3_moe", **WINDOW, label="window 8"),
    *_all("sliding_window", "qwen2 qwen3", **WINDOW, max_window_layers=1, label="upper layers"),
    *_all("sliding_window", "qwen2", **WINDOW, max_window_layers=9, label="no layer"),
    *_all("sliding_window", "qwen2", use_sliding_window=True, sliding_window=512, max_window_layers=0, label="wide window"),
    *_all("max_position_embeddings", max_position_embeddings=64),
    *_all("max_position_embeddings", "llama", max_position_embeddings=4096),
    *_all("layer_types", "qwen2", layer_types=["full_attention", "chunked_attention"], label="chunked"),
    # Shape.
    *_all("tie_word_embeddings", "qwen2 llama qwen3_moe", tie_word_embeddings=True),
    *_all("tie_word_embeddings", "qwen3", tie_word_embeddings=False),
    *_all("num_hidden_layers", num_hidden_layers=3),
    *_all("num_key_value_heads", num_key_value_heads=4),
    *_all("head_dim", "qwen3 llama qwen3_moe", head_dim=32),
    *_all("intermediate_size", DENSE, intermediate_size=64),
    *_all("hidden_size", "llama", hidden_size=32),
    *_all("nothing", "qwen2 llama", vocab_size=77, label="another vocabulary"),
    *_written("num_hidden_layers", "llama qwen2", num_hidden_layers=1, label="fewer than the weights"),
    *_written("hidden_size", "llama", hidden_size=None, label="null"),
    *_written("vocab_size", "qwen3", vocab_size=None, label="null"),
    *_written("num_attention_heads", "qwen2", num_attention_heads=0),
    *_written("moe_intermediate_size", "qwen3_moe", moe_intermediate_size=None, label="null"),
    *_written("num_experts_per_tok", "qwen3_moe", num_experts_per_tok=8, label="more than there are"),
    # Experts.
    *_all("norm_topk_prob", "qwen3_moe", norm_topk_prob=False),
    *_all("num_experts_per_tok", "qwen3_moe", num_experts_per_tok=3),
    *_all("moe_intermediate_size", "qwen3_moe", moe_intermediate_size=48),
    *_all("num_local_experts", "qwen3_moe", num_experts=6),
    *_all("mlp_only_layers", "qwen3_moe", mlp_only_layers=[0]),
    *_all("decoder_sparse_step", "qwen3_moe", decoder_sparse_step=2),
    *_written("shared_expert_intermediate_size", "qwen3_moe", shared_expert_intermediate_size=32),
    # Keys of other architectures, which transformers may ignore in these and a fork may not.
    *_written("attn_logit_softcapping", "llama", attn_logit_softcapping=50.0),
    *_written("final_logit_softcapping", "llama qwen2", final_logit_softcapping=30.0),
    *_written("logit_scale", "llama", logit_scale=0.0625),
    *_written("scale_emb", "llama", scale_emb=12),
    *_written("embedding_multiplier", "llama", embedding_multiplier=12.0),
    *_written("residual_multiplier", "llama", residual_multiplier=0.22),
    *_written("attention_multiplier", "llama", attention_multiplier=0.0078125),
    *_written("query_pre_attn_scalar", "llama", query_pre_attn_scalar=256),
    *_written("no_rope_layers", "llama", no_rope_layers=[1, 0]),
    *_written("sliding_window", "llama", sliding_window=8, label="llama with a window"),
    *_written("quantization_config", "llama qwen2", quantization_config={"quant_method": "awq"}, label="awq"),
    *_written("auto_map", "qwen2", auto_map={"AutoModelForCausalLM": "modeling_mine.Mine"}, label="own code"),
    *_written("architectures", "qwen2", architectures=["Qwen2ForSequenceClassification"], label="classifier"),
    *_written("model_type", "llama", model_type="gemma2"),
    *_written("nothing", "llama", model_type="mistral", architectures=["MistralForCausalLM"], label="mistral"),
    *_written("nothing", "llama", model_type="mistral", architectures=None, sliding_window=None, label="mistral, no window"),
    *_written("sliding_window", "llama", model_type="mistral", architectures=None, sliding_window=8, label="mistral, window 8"),
    *_written("nothing", "qwen2", use_mrope=False, unknown_list=[], unknown=None, label="unknown and empty"),
]  # fmt: skip
