"""Hugging Face model folders: made with random weights for a preset that has none, and checked where the user brings one."""

import json
import math
import shutil
from operator import attrgetter
from pathlib import Path
from typing import Any

from pipeline.common.errors import InputError, UsageError
from pipeline.common.files import whole_folder
from pipeline.models.tensors import TensorFolder, readable
from pipeline.settings import Model
from pipeline.settings.config_json import CLASSES, key_of, read_config, shape_of
from pipeline.settings.published import EMBEDDING, HEAD, tensor_shapes
from pipeline.stage import StageRun


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
    """Raises InputError where `folder` is not a complete model that computes what the preset says, naming what differs.

    A preset may allow a shorter context than the folder, and the embedding's size is the folder's own.
    """
    config, where = read_config(folder), str(folder / "config.json")
    found = _flat(shape_of(config, where, model.ignore_keys))
    for ours, value in found.items():
        want, theirs = attrgetter(ours)(model), key_of(ours, value, config)
        if (
            ours == "vocab_size"
            or _agree(ours, value, want)
            or (ours.startswith("experts.") and not model.experts.count)
        ):
            continue
        said = f"{theirs} is {value}"
        if theirs == "model_type":
            said = f"model_type is {config['model_type']!r}, which means model.{ours}={_text(value)}"
        remedy = (
            f"Use the model= preset that belongs to these weights, or model={folder}, which derives it from config.json"
        )
        if ours == "max_position_embeddings":
            remedy = f"Set model.{ours}={value}; longer sequences would be computed differently"
        raise InputError(f"{where}: {said}, and the preset says model.{ours}={_text(want)}. {remedy}")
    if model.experts.count and "experts.count" not in found:
        raise InputError(
            f"{where}: the model has no experts, and the preset says model.experts.count={model.experts.count}"
        )
    check_tensors(folder, model.model_copy(update={"vocab_size": found["vocab_size"]}))


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Leaves by dotted key."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        leaves |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return leaves


def _agree(ours: str, found: Any, wanted: Any) -> bool:
    if ours == "max_position_embeddings":
        return wanted <= found
    if isinstance(found, float):  # a file may hold fp32's nearest number to 1e-5
        return math.isclose(found, wanted, rel_tol=1e-6)
    return found == wanted


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def check_tensors(folder: Path, model: Model) -> None:
    """Raises InputError where the folder's tensors are not exactly those of `model`: one is missing, has another shape, or
    has no place in the model, so that ignoring it would change the function. Reads headers only.

    Two kinds of further tensors are known: the rotary frequencies, which follow from config.json, and a tied output layer
    that equals the embedding.
    """
    tensors, wanted = TensorFolder(folder), tensor_shapes(model)
    tensors.check()
    names = set(tensors.names())
    for name, shape in wanted.items():
        if name not in names:
            raise InputError(
                f"{folder} has no tensor {name!r}, which its config.json implies; download the model again"
            )
        if tensors.shape(name) != shape:
            raise InputError(
                f"{folder}: {name} has shape {tensors.shape(name)}, and its config.json means {shape}: weights and config.json "
                "belong to different models; download the model again"
            )
        if tensors.dtype(name) not in ("F32", "BF16", "F16", "F64"):
            raise InputError(
                f"{folder}: {name} is of type {tensors.dtype(name)}: the weights are quantized. Give the folder of "
                "the original, unquantized weights"
            )
    for name in sorted(names - wanted.keys()):
        if name.endswith(".rotary_emb.inv_freq"):
            continue
        if name == HEAD:
            if tensors.read(HEAD).equal(tensors.read(EMBEDDING)):
                continue
            raise InputError(
                f"{folder}: tie_word_embeddings is true, and {HEAD} differs from {EMBEDDING}. If the output layer is its own, "
                "set tie_word_embeddings to false in config.json and model.tie_word_embeddings=false"
            )
        raise InputError(
            f"{folder}: the tensor {name} has no place in the model that config.json describes ({model.family}, "
            f"num_hidden_layers={model.num_layers}), and without it another function would be trained. Check config.json"
        )


def check_vocabulary(folder: Path, tokenizer: Any) -> None:
    """Raises InputError where the tokenizer has more pieces than the model in `folder` has embeddings."""
    size = int(json.loads((folder / "config.json").read_text())["vocab_size"])
    if len(tokenizer) > size:
        raise InputError(
            f"the tokenizer has {len(tokenizer)} pieces, the model in {folder} only {size} embeddings: they do not belong "
            "together. Give both from one folder (model.path=...) and run stage=preprocess again"
        )


def start_folder(run: StageRun) -> Path:
    """The model that RL starts from: the warm-up's result, or the base itself where `sft.enabled` is off.

    A base of the user's is used in place, never copied. A preset without weights gets a folder of random ones.

    Raises InputError where the warm-up has not run, or the user's folder is not what the preset says.
    """
    settings = run.settings
    if settings.sft.enabled:
        folder = run.root / "sft" / "hf"
        if not (folder / "config.json").exists():
            raise InputError(f"{folder} is missing. Make it: {run.command('sft')}")
        check_folder(folder, settings.model)
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
            f"model.path is not set: download {settings.model.published_as or 'the model'}, and give its folder as "
            "model.path=..."
        )
    folder = run.root / "base" / "hf"
    if run.is_main:  # always again: the old one may have another seed, shape or tokenizer
        write_random(run, folder)
    return folder


def write_random(run: StageRun, folder: Path) -> None:
    """Random weights of the preset's shape, with the run's tokenizer; appears whole or not at all."""
    from pipeline.data.tokenizer import load

    source = run.root / "preprocess" / "tokenizer"
    tokenizer = load(source)
    model = random_model(run.settings.model, len(tokenizer), special_tokens(tokenizer), run.settings.seed)
    with whole_folder(folder) as temporary:
        model.save_pretrained(str(temporary))
        copy_tokenizer(source, temporary)
        readable(temporary)


def copy_tokenizer(source: Path, target: Path) -> None:
    for file in source.iterdir():
        if file.is_file():
            shutil.copyfile(file, target / file.name)
