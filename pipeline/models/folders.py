"""Hugging Face model folders: made with random weights for a preset that has none, and checked where the user brings one."""

import json
import shutil
from operator import attrgetter
from pathlib import Path
from typing import Any

from pipeline.common.errors import InputError, UsageError
from pipeline.models.tensors import TensorFolder
from pipeline.settings import Model
from pipeline.stage import StageRun

CLASSES = {"qwen2": "Qwen2", "qwen3": "Qwen3", "llama": "Llama", "qwen3_moe": "Qwen3Moe"}
MODEL_TYPES = {family: family for family in CLASSES}
CHECKED = {
    "num_hidden_layers": "num_layers",
    "hidden_size": "hidden_size",
    "intermediate_size": "ffn_hidden_size",
    "num_attention_heads": "num_attention_heads",
    "num_key_value_heads": "num_query_groups",
    "head_dim": "head_dim",
    "rms_norm_eps": "norm_eps",
    "tie_word_embeddings": "tie_word_embeddings",
    "num_experts": "experts.count",
    "num_experts_per_tok": "experts.per_token",
    "moe_intermediate_size": "experts.ffn_hidden_size",
    "norm_topk_prob": "experts.normalize_top_k",
}
"""config.json's key -> ours: what must agree between a user's folder and the preset."""


def config_of(model: Model, vocab_size: int | None = None, special: dict[str, int] | None = None) -> Any:
    """The transformers config of `model`; `special` holds `bos_token_id`, `eos_token_id` and `pad_token_id`."""
    import transformers

    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": model.rope.theta}
    if model.rope.scaling == "llama3":
        names = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
        rope |= {"rope_type": "llama3"} | {name: getattr(model.rope, name) for name in names}
    options: dict[str, Any] = {
        "vocab_size": vocab_size or model.vocab_size,
        "hidden_size": model.hidden_size,
        "intermediate_size": model.ffn_hidden_size,
        "num_hidden_layers": model.num_layers,
        "num_attention_heads": model.num_attention_heads,
        "num_key_value_heads": model.num_query_groups,
        "head_dim": model.head_dim,
        "max_position_embeddings": model.max_position_embeddings,
        "rms_norm_eps": model.norm_eps,
        "tie_word_embeddings": model.tie_word_embeddings,
        "rope_parameters": rope,
        "initializer_range": model.init_std,
        "dtype": "bfloat16" if model.dtype == "bf16" else "float32",
    }
    if model.family == "qwen2":
        options.pop("head_dim")  # Qwen2 derives it
    if model.experts.count:
        options |= {
            "num_experts": model.experts.count,
            "num_experts_per_tok": model.experts.per_token,
            "moe_intermediate_size": model.experts.ffn_hidden_size,
            "norm_topk_prob": model.experts.normalize_top_k,
        }
    return getattr(transformers, f"{CLASSES[model.family]}Config")(**options, **(special or {}))


def random_model(model: Model, vocab_size: int, special: dict[str, int], seed: int) -> Any:
    """A transformers model with seeded random weights, fp32."""
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()  # of writing shards; the stage says what it does
    torch.manual_seed(seed)
    return getattr(transformers, f"{CLASSES[model.family]}ForCausalLM")(config_of(model, vocab_size, special)).float()


def special_tokens(tokenizer: Any) -> dict[str, int]:
    names = ("bos_token_id", "eos_token_id", "pad_token_id")
    return {name: getattr(tokenizer, name) for name in names if getattr(tokenizer, name) is not None}


def check_folder(folder: Path, model: Model) -> None:
    """Raises InputError where `folder` is no complete model of the preset's architecture and shape, saying what differs."""
    config = folder / "config.json"
    if not folder.is_dir():
        raise InputError(f"model.path={folder}: no such folder")
    if not config.is_file():
        raise InputError(f"model.path={folder} has no config.json; give the folder of a Hugging Face model")
    try:
        found = json.loads(config.read_text())
    except ValueError as error:
        raise InputError(f"{config} is not JSON ({error}); download the model again") from error
    kind = found.get("model_type")
    if kind != MODEL_TYPES[model.family]:
        raise InputError(
            f"{config} is of architecture {kind!r}, the preset's is {MODEL_TYPES[model.family]!r}; take the model= preset "
            "that belongs to these weights"
        )
    moe = model.experts.count > 0
    said = [(theirs, found.get(theirs), ours) for theirs, ours in CHECKED.items() if moe or "experts" not in ours]
    for theirs, value, ours in [*said, *_rope_of(found)]:
        want = attrgetter(ours)(model)
        if value is not None and value != want:
            raise InputError(
                f"{config}: {theirs} is {value}, the preset says model.{ours}={want}; take the model= preset that belongs to "
                f"these weights, or set model.{ours}={value} if you know that it is right"
            )
    check_tensors(folder, model, int(found.get("vocab_size", model.vocab_size)))


def check_tensors(folder: Path, model: Model, vocab_size: int) -> None:
    """Raises InputError where weights are missing, a file is truncated, or the embedding is not of the stated size."""
    tensors = TensorFolder(folder)
    tensors.check()
    embedding = "model.embed_tokens.weight"
    want = (vocab_size, model.hidden_size)
    if embedding in tensors.names() and tensors.shape(embedding) != want:
        raise InputError(
            f"{folder}: {embedding} has shape {tensors.shape(embedding)}, and its config.json means {want}: weights and "
            "config.json belong to different models; download the model again"
        )


def check_vocabulary(folder: Path, tokenizer: Any) -> None:
    """Raises InputError where the tokenizer has more pieces than the model in `folder` has embeddings."""
    size = int(json.loads((folder / "config.json").read_text())["vocab_size"])
    if len(tokenizer) > size:
        raise InputError(
            f"the tokenizer has {len(tokenizer)} pieces, the model in {folder} only {size} embeddings: they do not belong "
            "together; give both from one folder (model.path=...) and run stage=preprocess again"
        )


def _rope_of(config: dict[str, Any]) -> list[tuple[str, Any, str]]:
    """(its key, its value, our key) of the rotary embedding, in the older (`rope_theta`) or the newer spelling."""
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    return [
        ("rope_theta", rope.get("rope_theta", config.get("rope_theta")), "rope.theta"),
        ("rope_type", "none" if kind == "default" else kind, "rope.scaling"),
    ]


def start_folder(run: StageRun) -> Path:
    """The model that RL starts from: the warm-up's result, or the base itself where `sft.enabled` is off.

    A base of the user's is used where it lies, never copied. A preset without weights gets a folder of random ones.

    Raises InputError where the warm-up has not run, or the user's folder is not what the preset says.
    """
    settings = run.settings
    if settings.sft.enabled:
        folder = run.root / "sft" / "hf"
        if not (folder / "config.json").exists():
            raise InputError(f"{folder} is not there; make it: {run.command('sft')}")
        return folder
    return base_folder(run)


def base_folder(run: StageRun) -> Path:
    """The untrained base: `model.path`, or random weights beside the tokenizer that preprocess trained, which rank 0 makes:
    the other ranks wait before they read."""
    settings = run.settings
    if settings.model.path is not None:
        folder = Path(settings.model.path)
        check_folder(folder, settings.model)
        return folder
    if settings.data.tokenizer != "sentencepiece":
        raise UsageError(
            f"model.path is not set: download {settings.model.published_as or 'the model'} and give its folder as "
            "model.path=..."
        )
    folder = run.root / "base" / "hf"
    if run.is_main:  # always anew: what lies there may be of another seed, shape or tokenizer
        write_random(run, folder)
    return folder


def write_random(run: StageRun, folder: Path) -> None:
    """Random weights of the preset's shape, with the run's tokenizer; appears whole or not at all."""
    from pipeline.data.tokenizer import load

    source = run.root / "preprocess" / "tokenizer"
    tokenizer = load(source)
    temporary = folder.with_name(f".{folder.name}.writing")
    shutil.rmtree(temporary, ignore_errors=True)
    model = random_model(run.settings.model, len(tokenizer), special_tokens(tokenizer), run.settings.seed)
    model.save_pretrained(str(temporary))
    copy_tokenizer(source, temporary)
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)


def copy_tokenizer(source: Path, target: Path) -> None:
    for file in source.iterdir():
        if file.is_file():
            shutil.copyfile(file, target / file.name)
