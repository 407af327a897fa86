"""Reads optimizer state that was saved with the other `rl.optimizer.distributed`.

Both of Megatron's optimizers save Adam's moments and the fp32 weights under names made of the weight's own name, each in the
weight's shape: the distributed one because `checkpoint_state` asks for its fully reshardable form. They differ in where
a state dict has them, in the name of the fp32 weights, and in whether an fp32 model has those at all. So what an optimizer asks
for is looked up by name, and its state dict is filled at its own places. Adam's step count is in the parameter groups of both.
"""

from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from megatron.core.dist_checkpointing.mapping import LocalNonpersistentObject, ShardedTensor, ShardedTensorFactory
from megatron.core.optimizer import OptimizerConfig

from pipeline.common.errors import InputError

STATE = "optimizer.state."
MASTERS = ("fp32_param", "param")
"""Names of the fp32 weights in checkpoints."""
HALVES = (torch.int16, torch.uint16, torch.float16, torch.bfloat16)
"""Types that the precision-aware optimizer alone saves: halves of fp32 weights, and small moments."""


def refuse_other_precision(folder: Path, entries: dict[str, Any], config: OptimizerConfig) -> None:
    """Raises InputError if the optimizer state of a checkpoint is not of the kind that an optimizer reads.

    Transformer Engine's precision-aware optimizer may keep only the 16 bits of an fp32 weight that its bf16 weight lacks
    (`store_param_remainders`), and Megatron saves them so. Read as fp32 they would be other numbers; nothing converts them.

    Args:
        entries: of the checkpoint's `.metadata`, by name.
        config: of the optimizer that reads.
    """
    types = (
        getattr(getattr(entry, "properties", None), "dtype", None) for name, entry in entries.items() if STATE in name
    )
    was = any(dtype in HALVES for dtype in types)
    halves = config.use_precision_aware_optimizer and config.store_param_remainders and config.bf16
    if was != halves:
        raise InputError(
            f"{folder}: its optimizer state was saved with rl.optimizer.precision_aware={str(was).lower()}, and is not "
            f"converted. Give that, or start from its weights: rl.load=<that folder> rl.load_optimizer=false."
        )


def read(template: Any, saved: Collection[str], load: Callable[[Any], Any], step: int) -> Any:
    """The state dict that an optimizer loads.

    Args:
        template: its own, with sharded tensors, as for loading.
        saved: names of the checkpoint's tensors.
        load: gives the tensors for a state dict of sharded tensors. Called twice, because it reads no name twice in one call.
        step: Adam's.

    Raises KeyError naming a tensor that the checkpoint has not.
    """
    tensors = load(_named(template, lambda key: _own_name(saved, key)))
    weights = _named(template, lambda key: None if _own_name(saved, key) else _weight_name(saved, key))
    return _filled(template, tensors, load(weights) if weights else None, step)


def _own_name(saved: Collection[str], key: str) -> str | None:
    """The name of an optimizer's tensor in the checkpoint; None where that is a weight's."""
    kind, weight = _parts(key)
    names = [key.replace(kind, f"{STATE}{other}.", 1) for other in MASTERS] if weight else [key]
    return next((name for name in names if name in saved), None)


def _weight_name(saved: Collection[str], key: str) -> str:
    """The name of a weight that is its own master: an fp32 model without the distributed optimizer has no others."""
    _, weight = _parts(key)
    if weight not in saved:
        raise KeyError(f"the checkpoint has no {key}")
    return weight


def _parts(key: str) -> tuple[str, str]:
    """Of the name of a master: what it begins with, and the weight's name; otherwise empty."""
    for name in MASTERS:
        _, found, weight = key.partition(f"{STATE}{name}.")
        if found:
            return found, weight
    return "", ""


def _named(template: Any, name: Callable[[str], str | None]) -> Any:
    """The sharded tensors of `template` that have a name, at their places; None where there is none."""
    if isinstance(template, ShardedTensor | ShardedTensorFactory):
        found = name(template.key)
        return None if found is None else replace(template, key=found)
    if isinstance(template, dict):
        entries = {key: _named(value, name) for key, value in template.items()}
        return {key: value for key, value in entries.items() if value is not None} or None
    if isinstance(template, list):
        return [entry for value in template if (entry := _named(value, name)) is not None] or None
    return None


def _filled(template: Any, tensors: Any, weights: Any, step: int) -> Any:
    """`template` with what was loaded at the places of its sharded tensors, and with Adam's step."""
    if isinstance(template, ShardedTensor | ShardedTensorFactory):
        return weights if tensors is None else tensors
    if isinstance(template, LocalNonpersistentObject):
        return template.unwrap()
    if isinstance(template, dict):
        one, other = tensors or {}, weights or {}
        state = {key: _filled(value, one.get(key), other.get(key), step) for key, value in template.items()}
        if isinstance(groups := state.get("param_groups"), list):
            state["param_groups"] = [group | {"step": step} for group in groups]
        return state
    if isinstance(template, list):
        ones, others = (loaded or [None] * len(template) for loaded in (tensors, weights))
        return [_filled(*entries, step) for entries in zip(template, ones, others, strict=True)]
    return template


def step_of(folder: Any, saved: Any) -> int:
    """Adam's step count in the common state of a checkpoint's optimizer. Raises InputError if it has none, or several."""
    found = set(_steps(saved))
    if len(found) != 1:
        raise InputError(
            f"{folder}: Adam's step count is {sorted(found) or 'missing'}, so its state cannot be converted to the other "
            "rl.optimizer.distributed. Start from its weights: rl.load=<that folder> rl.load_optimizer=false."
        )
    return found.pop()


def _steps(state: Any) -> list[int]:
    if isinstance(state, list):
        return [step for entry in state for step in _steps(entry)]
    if not isinstance(state, dict):
        return []
    own = [int(state[key]) for key in ("step", "common_step") if isinstance(state.get(key), int | float | torch.Tensor)]
    return own + [step for key, value in state.items() if key != "step" for step in _steps(value)]
