"""A model preset for a Hugging Face folder, derived from its config.json.

The shape is what config.json says. The layout follows published presets of that size: enough tensor parallelism for one
node of 80 GiB GPUs to hold weights, gradients and optimizer. Nothing of torch is imported.
"""

from math import prod
from pathlib import Path
from typing import Any

import yaml

from pipeline.common.errors import InputError
from pipeline.settings.config_json import read_config, shape_of
from pipeline.settings.model import Model
from pipeline.settings.published import tensor_shapes
from pipeline.settings.serving import Rollout
from pipeline.settings.training import Sft

Tree = dict[str, Any]
BILLION = 1_000_000_000
TENSOR_PARALLEL = ((2, 1), (5, 2), (10, 4))
"""Up to so many billion parameters, this tensor parallel size; 8 above."""
TWO_NODES = 20 * BILLION
"""From here on a node of 80 GiB GPUs does not hold the training state."""
DTYPES = {"float32": "fp32", "bfloat16": "bf16", "float16": "bf16"}


def derive(folder: Path, gpus: int = 8) -> Tree:
    """The preset tree of the model in `folder`, for `gpus` on each node (0: a CPU machine).

    Raises InputError where the folder has no config.json, or one that the actor cannot compute; the key is named.
    """
    config, where = read_config(folder), str(folder / "config.json")
    shape = shape_of(config, where)
    try:
        model = Model(**shape, parameters=1)
    except ValueError as error:
        raise InputError(f"{where} does not describe a model: {error}") from error
    parameters = sum(map(prod, tensor_shapes(model).values()))
    rope = shape["rope"] if shape["rope"]["scaling"] != "none" else {"theta": shape["rope"]["theta"]}
    stored = DTYPES.get(str(config.get("dtype") or config.get("torch_dtype")), "bf16")
    section = shape | {
        "rope": rope,
        "path": str(folder),
        "dtype": stored if gpus else "fp32",
        "parameters": parameters,
        "layouts": _layouts(model, parameters, gpus),
    }
    # A preset is written to be read: what a model does not have is left out.
    section = {key: value for key, value in section.items() if value is not False}
    tree: Tree = {"defaults": {"algo": "etr", "data": "math", "cluster": _cluster(gpus)}, "model": section}
    for part in (_lengths(model.max_position_embeddings), _memory(parameters, gpus)):
        for name, values in part.items():
            tree.setdefault(name, {}).update(values)
    return tree


def describe(tree: Tree) -> str:
    """What was derived, in one line."""
    model, layouts = tree["model"], tree["model"]["layouts"]
    experts = f", {model['experts']['count']} experts" if "experts" in model else ""
    cuts = "; ".join(
        f"{nodes} node{'s' * (nodes > 1)}: " + ", ".join(f"{key} {value}" for key, value in layout.items())
        for nodes, layout in layouts.items()
    )
    return (
        f"derived from {model['path']}/config.json: {model['family']}, {model['num_layers']} layers, hidden size "
        f"{model['hidden_size']}, {model['num_attention_heads']} heads in {model['num_query_groups']} groups{experts}, context "
        f"{model['max_position_embeddings']}, {model['parameters']:,} parameters, {model['dtype']}; "
        f"layout of {cuts}"
    )


def to_yaml(tree: Tree) -> str:
    """The preset as a file that the user can keep and change (`model=mine.yaml`)."""
    head = (
        f"# Derived from {tree['model']['path']}/config.json. Keep it, change it, and give it as model=<this file>.\n"
    )
    return head + yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)


def _cluster(gpus: int) -> str:
    return "local" if not gpus else "gpu1" if gpus == 1 else "gpu8"


def _layouts(model: Model, parameters: int, gpus: int) -> dict[int, Tree]:
    """By number of nodes."""
    if gpus <= 1:
        return {1: {"tp": 1, "micro_batch_tokens": 4096 if not gpus else 8192}}
    if model.experts.count:
        # Experts are spread and attention is copied: cutting a few key/value heads would gain little.
        layout = {"tp": 1, "ep": _divisor(gpus, model.experts.count), "micro_batch_tokens": 8192}
        layout["rollout_tp"] = _divisor(min(4, gpus), model.num_query_groups, model.num_attention_heads)
    else:
        size = next((tp for most, tp in TENSOR_PARALLEL if parameters < most * BILLION), 8)
        size = _divisor(min(size, gpus), model.num_query_groups, model.num_attention_heads, model.ffn_hidden_size, gpus)
        layout = {"tp": size} | ({"sp": True} if size > 1 else {})
        layout["micro_batch_tokens"] = 16384 if parameters < TWO_NODES else 8192
    if parameters < TWO_NODES or model.num_layers % 2:
        return {1: layout}
    return {1: layout, 2: layout | {"pp": 2}}


def _divisor(most: int, *numbers: int) -> int:
    """The largest power of two up to `most` that divides all `numbers`."""
    size = 1
    while size * 2 <= most and all(number % (size * 2) == 0 for number in numbers):
        size *= 2
    return size


def _lengths(context: int) -> Tree:
    """Prompts, responses and warm-up rows that fit in the context, where the defaults do not."""
    rollout, tree = Rollout(), Tree()
    if context < rollout.max_prompt_tokens + rollout.max_new_tokens:
        prompt = min(rollout.max_prompt_tokens, context // 2)
        tree["rollout"] = {"max_prompt_tokens": prompt, "max_new_tokens": context - prompt}
    if context < Sft().sequence_length:
        tree["sft"] = {"sequence_length": context}
    return tree


def _memory(parameters: int, gpus: int) -> Tree:
    """Recomputation, and vLLM's share of a GPU, for models that fill the devices."""
    if not gpus or parameters < 3 * BILLION:
        return {}
    if parameters < 10 * BILLION:
        return {"rollout": {"gpu_memory_share": 0.5}}
    return {"rl": {"recompute": "full"}, "rollout": {"gpu_memory_share": 0.4}}
