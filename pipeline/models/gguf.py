"""A Hugging Face folder of a GGUF file: `python -m pipeline.models.gguf <file> <folder>`.

transformers reads the file and turns quantized tensors into fp32. It passes over settings and tensors that it has no place for,
so both are compared with what the file holds: the folder computes what the file does, or the file is refused and the setting or
tensor named.
"""

import math
import re
import sys
from pathlib import Path
from typing import Any

from pipeline.common.errors import InputError
from pipeline.common.files import follow_umask, whole_folder, write_json
from pipeline.settings.config_json import CLASSES, OTHER_FAMILIES

ARCHITECTURES = {"llama": "llama", "qwen2": "qwen2", "qwen3": "qwen3", "qwen3moe": "qwen3_moe"}
"""`general.architecture` -> model_type. Mistral's files are named llama."""
READ = frozenset(
    {
        "context_length", "block_count", "feed_forward_length", "embedding_length", "rope.dimension_count", "rope.freq_base",
        "attention.head_count", "attention.head_count_kv", "attention.layer_norm_rms_epsilon", "vocab_size",
        "expert_count", "expert_used_count", "expert_feed_forward_length", "attention.key_length", "attention.value_length",
    }
)  # fmt: skip
"""Keys of an architecture that the folder's config.json is made from, or that `_check_config` compares with it."""
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "rope.scaling.type": ("none",),
    "rope.scaling.factor": (0.0, 1.0),
    "rope.scale_linear": (1.0,),
    "attention.causal": (True,),
    "attention.sliding_window": (0,),
    "expert_shared_count": (0,),
    "leading_dense_block_count": (0,),
    "expert_weights_norm": (True,),
    "expert_weights_scale": (0.0, 1.0),
    "embedding_scale": (1.0,),
    "residual_scale": (1.0,),
    "logit_scale": (1.0,),
    "attention.scale": (0.0,),
}
"""Keys that select a computation, and the values that mean the one of the folder."""
INSTEAD = "Give the model's Hugging Face folder instead"


def convert(file: Path, folder: Path) -> str:
    """Writes `folder` (config.json, weights in fp32, tokenizer) and says what it is.

    Raises InputError if the file is damaged, or holds a model that the folder would not compute.
    """
    reader = read(file)
    architecture = check_header(file, {name: _value(field) for name, field in reader.fields.items()})
    model, tokenizer = _load(file)
    _check_config(file, architecture, reader, model.config)
    _check_tensors(file, reader, model)
    with whole_folder(folder) as temporary:
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        state = file.stat()
        write_json(temporary / "gguf.json", {"size": state.st_size, "changed_ns": state.st_mtime_ns})
        for written in temporary.iterdir():
            follow_umask(written)
    kinds = ", ".join(sorted({tensor.tensor_type.name for tensor in reader.tensors}))
    return f"{folder}: {model.config.model_type}, {model.num_parameters():,} parameters in fp32, from {kinds}"


def read(file: Path) -> Any:
    """A `gguf.GGUFReader` whose tensors are all there. Raises InputError otherwise."""
    from gguf import GGUFReader

    try:
        reader = GGUFReader(str(file))
    except (ValueError, IndexError, KeyError, OverflowError, UnicodeDecodeError) as error:
        raise InputError(f"{file} is damaged or cut off: its header cannot be read ({error}). Copy it again") from error
    end = max((tensor.data_offset + tensor.n_bytes for tensor in reader.tensors), default=0)
    if end == 0:
        raise InputError(f"{file} holds no weights (a file with a vocabulary alone?)")
    return reader


def check_header(file: Path, fields: dict[str, Any]) -> str:
    """`general.architecture`. Raises InputError where the file's settings mean a model that cannot be made into a folder."""
    kind = fields.get("general.type", "model")
    if kind != "model":
        raise InputError(f"{file} holds no model: its general.type is {kind!r}")
    if fields.get("split.count", 1) > 1:
        raise InputError(
            f"{file} is one of {fields['split.count']} parts. Join them first: llama-gguf-split --merge <first part> <new file>"
        )
    architecture = str(fields.get("general.architecture"))
    if architecture not in ARCHITECTURES:
        raise InputError(
            f"{file}: the architecture {architecture} is not supported. Allowed in GGUF files: {', '.join(ARCHITECTURES)}. "
            f"As folders: {OTHER_FAMILIES}"
        )
    if "tokenizer.ggml.tokens" not in fields:
        raise InputError(f"{file} has no tokenizer (tokenizer.ggml.tokens). {INSTEAD}")
    for name, value in fields.items():
        key = name.removeprefix(f"{architecture}.")
        if key == name or key in READ or value in NEUTRAL.get(key, ()):
            continue
        raise InputError(f"{file}: {name} is {value}, which the folder's config.json would not have. {INSTEAD}")
    return architecture


def _load(file: Path) -> tuple[Any, Any]:
    """(a plain fp32 model with the file's weights, its tokenizer)."""
    import torch
    import transformers
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    transformers.utils.logging.disable_progress_bar()
    place: dict[str, Any] = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
    read: Any = AutoModelForCausalLM.from_pretrained
    try:
        loaded, report = read(**place, dtype=torch.float32, output_loading_info=True)
        config = AutoConfig.from_pretrained(**place)
        tokenizer = AutoTokenizer.from_pretrained(**place)
    except (ValueError, RuntimeError, KeyError, TypeError, NotImplementedError, AttributeError) as error:
        said = str(error).strip().partition("\n")[0]
        raise InputError(f"{file}: transformers cannot read it ({type(error).__name__}: {said}). {INSTEAD}") from error
    lacking = sorted(report["missing_keys"])
    if lacking:
        raise InputError(f"{file} has no tensor for {lacking[0]} ({len(lacking)} are missing). {INSTEAD}")
    config.dtype = torch.float32
    vars(config).pop("_model_name_or_path", None)  # the file's title, which is no setting of the model
    # What is read from a GGUF counts as quantized, and transformers refuses to save it.
    plain = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    plain.load_state_dict(loaded.state_dict())
    return plain, tokenizer


def _check_config(file: Path, architecture: str, reader: Any, config: Any) -> None:
    """Raises InputError where the config that transformers made of the file has another number than the file."""
    if config.model_type not in CLASSES:
        raise InputError(f"{file}: transformers reads it as {config.model_type}, which is not supported. {INSTEAD}")
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    have = {
        "context_length": config.max_position_embeddings,
        "block_count": config.num_hidden_layers,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "attention.key_length": head_dim,
        "attention.value_length": head_dim,
        "rope.dimension_count": head_dim,
        "rope.freq_base": config.rope_parameters["rope_theta"],
        "vocab_size": config.vocab_size,
        "expert_count": getattr(config, "num_experts", 0),
        "expert_used_count": getattr(config, "num_experts_per_tok", 0),
        "expert_feed_forward_length": getattr(config, "moe_intermediate_size", 0),
    }
    for key, value in have.items():
        field = reader.fields.get(f"{architecture}.{key}")
        if field is None or math.isclose(_value(field), value, rel_tol=1e-6):
            continue
        if key == "feed_forward_length" and architecture == "qwen3moe":
            continue  # of dense layers, and there are none
        raise InputError(
            f"{file}: {architecture}.{key} is {_value(field)}, and transformers reads {value} from it. {INSTEAD}"
        )


def _check_tensors(file: Path, reader: Any, model: Any) -> None:
    """Raises InputError where the file has tensors that the model has no place for."""
    if any(tensor.name == "rope_freqs.weight" for tensor in reader.tensors):
        raise InputError(
            f"{file} has scaled rotary frequencies (rope_freqs.weight, of Llama 3.1 and later), which transformers leaves out."
            f" {INSTEAD}"
        )
    held = sum(int(tensor.n_elements) for tensor in reader.tensors)
    if held == model.num_parameters():
        return
    usual = re.compile(r"(token_embd|output|output_norm|blk\.\d+\.(attn|ffn)_\w+)\.weight")
    odd = [tensor.name for tensor in reader.tensors if not usual.fullmatch(tensor.name)]
    raise InputError(
        f"{file} holds {held:,} numbers, and a {model.config.model_type} of its sizes has {model.num_parameters():,}"
        f"{'; the model may have no place for ' + odd[0] if odd else ''}. {INSTEAD}"
    )


def _value(field: Any) -> Any:
    return field.contents()


def main(words: list[str]) -> int:
    """Converts; an error for the user goes to the output, with its exit code."""
    try:
        print(convert(Path(words[0]), Path(words[1])))
    except InputError as error:
        print(error)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
