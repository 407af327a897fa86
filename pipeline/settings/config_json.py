"""A Hugging Face `config.json` in this project's terms: the `model` section that computes the same function.

Every key of the file falls into one of four classes. It describes the shape, which is read. It selects a computation that the
actor has only one form of, and any other value is refused. It is known to change nothing. Or it is unknown, and then a
value other than empty, zero or false is refused, because ignoring it might train a different function than the published one.
"""

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from pipeline.common.errors import InputError

FAMILIES = {"qwen2": "qwen2", "qwen3": "qwen3", "llama": "llama", "mistral": "llama", "qwen3_moe": "qwen3_moe"}
"""model_type -> `model.family`. Mistral without a sliding window is a Llama of another name."""
CLASSES = {"qwen2": "Qwen2", "qwen3": "Qwen3", "llama": "Llama", "mistral": "Mistral", "qwen3_moe": "Qwen3Moe"}
"""model_type -> the name by which transformers calls its classes."""
OTHER_FAMILIES = (
    f"Supported are {', '.join(FAMILIES)} (SmolLM, TinyLlama and others of Llama's form are llama). "
    "Megatron-Bridge is not part of this project: its 0.3 asks for transformers below 5 where this project has 5, and 0.4 and "
    "later for a newer megatron-core. If the model computes what one of the supported families computes, "
    "write its weights under that family's tensor names, with its config.json, and give that folder "
    "(docs/data.md, A model of your own)"
)
"""What there is to say to a model of another family: what works, why nothing else does, and the way that is left."""

SIZES = {
    "num_hidden_layers": "num_layers",
    "hidden_size": "hidden_size",
    "intermediate_size": "ffn_hidden_size",
    "num_attention_heads": "num_attention_heads",
    "vocab_size": "vocab_size",
    "max_position_embeddings": "max_position_embeddings",
}
"""Keys that have no default here: a file without one of them does not describe a model."""
DEFAULTS: dict[str, dict[str, Any]] = {
    "qwen2": {"num_key_value_heads": 32},
    "qwen3": {"num_key_value_heads": 32, "head_dim": 128},
    "llama": {"num_key_value_heads": None},
    "mistral": {"num_key_value_heads": 8, "sliding_window": 4096},
    "qwen3_moe": {
        "num_key_value_heads": 4,
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "moe_intermediate_size": 768,
        "norm_topk_prob": False,
    },
}
"""What transformers assumes where a file leaves a key out; the rest is the same for all of them."""
NORM_EPS, ROPE_THETA, MAX_WINDOW_LAYERS = 1e-6, 10_000.0, 28

SINGLE_FORM: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("silu", "swish"),
    "hidden_activation": ("silu", "swish", None),
    "attention_bias": (False, None),
    "mlp_bias": (False, None),
    "partial_rotary_factor": (1.0, None),
    "rope_interleaved": (False, None),
    "decoder_sparse_step": (1, None),
    "mlp_only_layers": ([], None),
    "is_encoder_decoder": (False, None),
    "add_cross_attention": (False, None),
    "chunk_size_feed_forward": (0, None),
    "use_qk_norm": (None,),
    "attn_logit_softcapping": (None,),
    "final_logit_softcapping": (None,),
    "logit_scale": (1.0, None),
    "logits_scaling": (1.0, None),
    "scale_emb": (1.0, None),
    "embedding_multiplier": (1.0, None),
    "residual_multiplier": (1.0, None),
    "attention_multiplier": (None,),
}
"""Keys that select a computation, and the values that mean the one the actor has."""
HARMLESS = frozenset(
    {
        # Names, versions and storage.
        "_name_or_path", "architectures", "dtype", "model_type", "tokenizer_class", "torch_dtype", "transformers_version",
        "transformers.js_config", "is_llama_config", "unsloth_fixed", "unsloth_version", "_commit_hash",
        # Training, caching and the form of a transformers output.
        "_attn_implementation", "_attn_implementation_autoset", "attention_dropout", "attn_implementation",
        "gradient_checkpointing",
        "hidden_dropout", "initializer_range", "num_logits_to_keep", "output_attentions", "output_hidden_states",
        "output_router_logits", "output_scores", "pretraining_tp", "problem_type", "return_dict",
        "return_dict_in_generate", "router_aux_loss_coef", "torchscript", "use_bfloat16", "use_cache",
        # Other tasks than language modelling.
        "finetuning_task", "id2label", "label2id", "task_specific_params",
        # Special tokens; the tokenizer and generation_config.json decide which tokens end a response.
        "begin_suppress_tokens", "bos_token_id", "decoder_start_token_id", "eos_token_id", "forced_bos_token_id",
        "forced_eos_token_id", "pad_token_id", "prefix", "sep_token_id", "suppress_tokens", "unk_token_id",
        # Generation settings that older versions of transformers wrote into config.json.
        "bad_words_ids", "diversity_penalty", "do_sample", "early_stopping", "encoder_no_repeat_ngram_size",
        "exponential_decay_length_penalty", "length_penalty", "max_length", "min_length", "no_repeat_ngram_size",
        "num_beam_groups", "num_beams", "num_return_sequences", "remove_invalid_values", "repetition_penalty",
        "temperature", "tf_legacy_loss", "tie_encoder_decoder", "top_k", "top_p", "typical_p",
        "cross_attention_hidden_size", "is_decoder", "pruned_heads",
    }
)  # fmt: skip
"""Keys known to change nothing in the function from tokens to logits (dropout is always off in the actor)."""
READ = frozenset(
    {
        *SIZES, "num_key_value_heads", "head_dim", "rms_norm_eps", "tie_word_embeddings", "rope_theta", "rope_scaling",
        "rope_parameters", "use_sliding_window", "sliding_window", "max_window_layers", "layer_types",
    }
)  # fmt: skip
READ_MOE = frozenset(
    {"num_experts", "num_local_experts", "num_experts_per_tok", "moe_intermediate_size", "norm_topk_prob"}
)
LLAMA3_ROPE = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
REASONS = {
    "quantization_config": "the weights are quantized; give the folder of the original, unquantized weights",
    "auto_map": "the model runs Python code of its own, which this project does not execute",
    "attention_bias": "the actor has no bias on the attention's output",
    "mlp_bias": "the actor's MLP has no biases",
    "hidden_act": "the actor's MLP is SwiGLU (silu)",
}
"""Why a key is refused, where there is more to say than that the actor does not have it."""


def read_config(folder: Path) -> dict[str, Any]:
    """The content of `folder/config.json`. Raises InputError where it is missing or not a JSON object."""
    file = folder / "config.json"
    if not folder.is_dir():
        raise InputError(f"model.path={folder}: there is no such folder")
    if not file.is_file() and (folder / "adapter_config.json").is_file():
        raise InputError(
            f"model.path={folder} is an adapter (LoRA). Merge it into its base model, and give the merged folder"
        )
    if not file.is_file():
        raise InputError(f"model.path={folder} has no config.json; give the folder of a Hugging Face model")
    try:
        config = json.loads(file.read_text("utf-8"))
    except (ValueError, OSError) as error:
        raise InputError(f"{file} is not JSON ({error}); download the model again") from error
    if not isinstance(config, dict):
        raise InputError(f"{file} holds a {type(config).__name__}, not a JSON object; download the model again")
    return config


def shape_of(config: dict[str, Any], where: str, ignored: Collection[str] = ()) -> dict[str, Any]:
    """The `model` section (without path, layouts and parameters) that computes what transformers computes for `config`.

    `where` names the file in messages; `ignored` are unknown keys that the user vouches for (`model.ignore_keys`).

    Raises InputError naming the key that the actor cannot follow, that is missing, or that is unknown.
    """
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in FAMILIES:
        raise InputError(f"{where}: model_type is {kind!r}, which the actor does not compute. {OTHER_FAMILIES}")
    _check_keys(config, kind, where, ignored)
    defaults = DEFAULTS[kind]
    shape: dict[str, Any] = {"family": FAMILIES[kind]}
    for theirs, ours in SIZES.items():
        shape[ours] = _whole(config, theirs, where, least=1)
    heads = shape["num_attention_heads"]
    shape["num_query_groups"] = _whole(config, "num_key_value_heads", where, defaults["num_key_value_heads"]) or heads
    shape["head_dim"] = _whole(config, "head_dim", where, defaults.get("head_dim", 0)) or shape["hidden_size"] // heads
    shape["rope"] = _rope(config, where)
    shape["norm_eps"] = _number(config, "rms_norm_eps", where, NORM_EPS)
    shape["tie_word_embeddings"] = bool(config.get("tie_word_embeddings", False))
    shape["qkv_bias"] = kind == "qwen2"
    shape["qk_norm"] = kind in ("qwen3", "qwen3_moe")
    if kind == "qwen3_moe":
        shape["experts"] = _experts(config, where)
    window = _window(config, kind, shape["num_layers"], where)
    if window is not None:  # no sequence that is at most as long as the window notices it
        shape["max_position_embeddings"] = min(window, shape["max_position_embeddings"])
    return shape


def key_of(ours: str, value: Any, config: dict[str, Any]) -> str:
    """The key of config.json that makes `model.<ours>` the `value` that `shape_of` found, for messages."""
    if ours == "max_position_embeddings" and value != config[ours]:
        return "sliding_window"
    if ours.startswith("rope."):
        return {"rope.theta": "rope_theta", "rope.scaling": "rope_type"}.get(ours, ours.removeprefix("rope."))
    names = {ours: theirs for theirs, ours in SIZES.items()} | {
        "num_query_groups": "num_key_value_heads",
        "norm_eps": "rms_norm_eps",
        "experts.count": "num_local_experts" if "num_local_experts" in config else "num_experts",
        "experts.per_token": "num_experts_per_tok",
        "experts.ffn_hidden_size": "moe_intermediate_size",
        "experts.normalize_top_k": "norm_topk_prob",
        "qkv_bias": "model_type",
        "qk_norm": "model_type",
        "family": "model_type",
    }
    return names.get(ours, ours)


def _check_keys(config: dict[str, Any], kind: str, where: str, ignored: Collection[str]) -> None:
    read = READ | READ_MOE if kind == "qwen3_moe" else READ
    for key, value in config.items():
        if key in SINGLE_FORM:
            if not any(
                value == allowed and isinstance(value, bool) == isinstance(allowed, bool)
                for allowed in SINGLE_FORM[key]
            ):
                only = SINGLE_FORM[key][0]
                has = "the actor does not compute it" if only is None else f"the actor supports {only!r} only"
                reason = REASONS.get(key, has)
                raise InputError(f"{where}: {key} is {value!r}: {reason}. This model cannot be trained here")
        elif key not in read and key not in HARMLESS and key not in ignored and not _neutral(value):
            unknown = (
                "this project does not know the key, and ignoring it might train another function. If you know that it "
                f"changes nothing, set model.ignore_keys={key}"
            )
            reason = REASONS.get(key, unknown)
            raise InputError(f"{where}: {key} is {_short(value)}: {reason}")
    classes = config.get("architectures") or []
    wanted = f"{CLASSES[kind]}ForCausalLM"
    if classes and wanted not in classes:
        raise InputError(
            f"{where}: architectures is {_short(classes)}, and only {wanted} is a language model of this type; give the "
            "folder of the language model"
        )


def _neutral(value: Any) -> bool:
    return value is None or value is False or (isinstance(value, str | list | dict | int | float) and not value)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _rope(config: dict[str, Any], where: str) -> dict[str, Any]:
    """The rotary embedding, in the older spelling (`rope_theta`, `rope_scaling`) or the newer one (`rope_parameters`)."""
    said = config.get("rope_scaling") or config.get("rope_parameters") or {}
    if not isinstance(said, dict):
        raise InputError(f"{where}: rope_parameters is {_short(said)}, which is not an object")
    kind = said.get("rope_type", said.get("type", "default"))
    if kind not in ("default", "llama3"):
        raise InputError(f"{where}: rope_type is {kind!r}: the actor supports default and llama3 only")
    known = {"rope_type", "type", "rope_theta", "partial_rotary_factor", *(LLAMA3_ROPE if kind == "llama3" else ())}
    for key, value in said.items():
        if (key not in known and not _neutral(value)) or (key == "partial_rotary_factor" and value not in (None, 1.0)):
            raise InputError(
                f"{where}: {key} of its rotary embedding is {_short(value)}, which the actor does not support"
            )
    theta = said if said.get("rope_theta") is not None else config
    rope: dict[str, Any] = {"theta": _number(theta, "rope_theta", where, ROPE_THETA), "scaling": "none"}
    if kind == "llama3":
        context = config.get("max_position_embeddings")
        rope["scaling"] = "llama3"
        rope |= {key: _number(said, key, where) for key in LLAMA3_ROPE[:3]}
        rope["original_max_position_embeddings"] = _whole(said, "original_max_position_embeddings", where, context)
    return rope


def _experts(config: dict[str, Any], where: str) -> dict[str, Any]:
    counts = {key: config[key] for key in ("num_experts", "num_local_experts") if config.get(key) is not None}
    if len(set(counts.values())) > 1:
        raise InputError(
            f"{where}: num_experts is {counts['num_experts']} and num_local_experts {counts['num_local_experts']}"
        )
    defaults = DEFAULTS["qwen3_moe"]
    count = _whole(config, next(iter(counts), "num_experts"), where, defaults["num_experts"], least=1)
    per_token = _whole(config, "num_experts_per_tok", where, defaults["num_experts_per_tok"], least=1)
    if per_token > count:
        raise InputError(f"{where}: num_experts_per_tok is {per_token}, and there are {count} experts")
    return {
        "count": count,
        "per_token": per_token,
        "ffn_hidden_size": _whole(config, "moe_intermediate_size", where, defaults["moe_intermediate_size"], least=1),
        "normalize_top_k": bool(config.get("norm_topk_prob", defaults["norm_topk_prob"])),
    }


def _window(config: dict[str, Any], kind: str, layers: int, where: str) -> int | None:
    """The attention window of the layers that have one."""
    types = config.get("layer_types")
    if types is not None and not set(types) <= {"full_attention", "sliding_attention"}:
        raise InputError(f"{where}: layer_types is {_short(types)}: the actor supports full_attention only")
    width = config.get("sliding_window", DEFAULTS[kind].get("sliding_window"))
    if not kind.startswith("qwen") and "sliding_attention" in (types or ()):
        raise InputError(f"{where}: layer_types is {_short(types)}: the actor supports full_attention only")
    if kind.startswith("qwen"):
        if not config.get("use_sliding_window"):
            return None
        width = config.get("sliding_window", 4096)
        if types is not None:
            slides = "sliding_attention" in types
        else:
            slides = kind == "qwen3_moe" or layers > config.get("max_window_layers", MAX_WINDOW_LAYERS)
        if not slides:
            return None
    return None if width is None else _whole({"sliding_window": width}, "sliding_window", where)


def _whole(config: dict[str, Any], key: str, where: str, default: Any = ..., least: int = 0) -> int:
    """The number at `key`; 0 for null, unless it must be at least 1."""
    value = config.get(key, default)
    if value is ... or (value is None and least):
        raise InputError(f"{where} has no {key}; it does not describe a model of this type. Download the model again")
    if value is None:
        return 0
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InputError(f"{where}: {key} is {_short(value)}, which is not a whole number{' above 0' if least else ''}")
    return value


def _number(config: dict[str, Any], key: str, where: str, default: Any = ...) -> float:
    value = config.get(key, default)
    if value is ... or value is None:
        raise InputError(f"{where} has no {key}; download the model again")
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError(f"{where}: {key} is {_short(value)}, which is not a number")
    return float(value)
