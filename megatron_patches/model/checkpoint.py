"""Megatron distributed checkpoints: written whole or not at all, readable at any tensor, pipeline and data parallel size.

An iteration is saved under a temporary name and renamed when every rank has finished; only then does `latest` move on. A
kill at any moment leaves the last whole one in force. Weights or optimizer state with NaN or infinity are neither saved
nor loaded. What a folder's pickles may ask for is limited (`safe_reading`), its files are checked by sums
(`checkpoint_folder`). This module loads; `checkpoint_saving` saves.
"""

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import torch
from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing.serialization import get_default_load_sharded_strategy
from megatron.core.utils import unwrap_model
from torch.distributed.checkpoint.api import CheckpointException

from megatron_patches.model import optimizer_forms, safe_reading
from megatron_patches.model.checkpoint_folder import (
    LATEST,
    clear_unfinished,
    damage,
    iteration_folder,
    iterations,
    latest_iteration,
    newest_whole,
)
from megatron_patches.model.checkpoint_saving import NonFiniteError, Saver
from megatron_patches.model.checkpoint_state import DAMAGE, fill, sharded_state, sharded_tensors
from megatron_patches.model.finite import anywhere, first_nonfinite, first_on_any_rank
from pipeline.common.errors import InputError
from pipeline.settings import Model

__all__ = [
    "NonFiniteError", "Saver", "clear_unfinished", "contents", "iteration_folder", "iterations", "latest_iteration", "load",
    "load_folder", "newest_whole", "save",
]  # fmt: skip


OTHER = "other"
"""Where a state dict has what is read besides, so that nothing of the checkpoint's common state is merged into it."""


def save(root: Path, iteration: int, chunks: list, model: Model, *, optimizer: Any = None, common: dict) -> None:
    """Saves one iteration under `root` and waits for it (a collective of all ranks), as `Saver.save` does."""
    Saver(root, model).save(iteration, chunks, optimizer=optimizer, common=common)


def _tensors(state: Any, path: tuple = ()) -> Iterator[tuple[tuple, torch.Tensor]]:
    """Every tensor of a loaded state and its place."""
    if isinstance(state, torch.Tensor):
        yield path, state
    elif isinstance(state, dict | list):
        for key, value in state.items() if isinstance(state, dict) else enumerate(state):
            yield from _tensors(value, (*path, key))


def load(
    root: Path, iteration: int, chunks: list, model: Model, *, optimizer=None, checked: bool = False
) -> dict[str, Any]:
    """Loads `iteration` under `root`, as `load_folder` does. `checked`: its files have just been found whole."""
    folder = iteration_folder(root, iteration)
    remedy = f"delete {folder} and write an older iteration into {root / LATEST}, or make it again"
    return load_folder(folder, chunks, model, optimizer=optimizer, checked=checked, remedy=remedy)


def load_folder(
    folder: Path, chunks: list, model: Model, *, optimizer=None, checked: bool = False, remedy: str = "make it again"
) -> dict[str, Any]:
    """Loads a checkpoint, saved at any layout, into `chunks` (and `optimizer`) (a collective). Returns its
    `common` state, which is empty where another program wrote the checkpoint.

    Raises InputError naming the folder when it is damaged, of another model, not finite, has no optimizer state where it
    is asked for, or asks for foreign classes. Optimizer state that was saved with the other `rl.optimizer.distributed` is
    converted (`optimizer_forms`).
    """
    wrong = None if checked else damage(folder)
    if wrong is not None:
        raise InputError(f"{folder} is damaged: {wrong}; {remedy}")
    saved = safe_reading.read_common(folder)
    # Before upstream reads it on rank 0 alone and wraps what goes wrong.
    entries = safe_reading.read_metadata(folder).state_dict_metadata
    for field, value in saved.get("shape", {}).items():
        if value != getattr(model, field):
            raise InputError(
                f"{folder} is of another model: its {field} is {value!r}, the configured model's is "
                f"{getattr(model, field)!r}; take the preset it was made with, or another name="
            )
    converts = optimizer is not None and (
        _was_distributed(folder, entries, saved) != optimizer.config.use_distributed_optimizer
    )
    if optimizer is not None:
        optimizer_forms.refuse_other_precision(folder, entries, optimizer.config)
    step = optimizer_forms.step_of(folder, saved.get("optimizer")) if converts else 0
    template = sharded_state(chunks, optimizer, is_loading=True)
    names = {path: name for path, name, _ in sharded_tensors(template)}

    def read(wanted: Any) -> Any:
        return dist_checkpointing.load(wanted, str(folder), get_default_load_sharded_strategy(str(folder)))

    try:
        own = template.pop("optimizer") if converts else None
        state = read(template)
        if converts:
            state["optimizer"] = optimizer_forms.read(own, entries, lambda wanted: read({OTHER: wanted})[OTHER], step)
    except DAMAGE as error:
        raise _unreadable(folder, error, remedy) from error
    sharded = {key: value for key, value in state.items() if key.startswith("model") or key == "optimizer"}
    found = first_nonfinite((names.get(path, ".".join(map(str, path))), tensor) for path, tensor in _tensors(sharded))
    if anywhere(found is not None):
        _, name = first_on_any_rank(found) or (0, "")
        raise InputError(f"{folder} is not loaded: {name} holds NaN or infinity; {remedy}")
    modules = [unwrap_model(chunk) for chunk in chunks]
    for i, module in enumerate(modules):
        fill(module, state["model" if len(modules) == 1 else f"model{i}"])
    if optimizer is not None:
        with torch.no_grad():
            optimizer.load_state_dict(state["optimizer"])
    return state.get("common", {})


def _was_distributed(folder: Path, entries: Collection[str], saved: dict[str, Any]) -> bool:
    """Whether the optimizer state of a checkpoint is that of the distributed optimizer. It and the others keep Adam's step and
    parameter groups in different places and forms, and upstream converts neither. Raises InputError if the checkpoint has no
    optimizer state.

    Args:
        entries: names in the checkpoint's `.metadata`.
        saved: its common state.
    """
    if "optimizer" not in saved and not any(name.startswith("optimizer.") for name in entries):
        raise InputError(
            f"{folder} holds no optimizer state; give rl.load_optimizer=false to start from its weights alone"
        )
    was = has_key(saved.get("optimizer"), "param_state_sharding_type")
    return was or any(name.startswith("optimizer.distributed.") for name in entries)


def has_key(state: Any, key: str) -> bool:
    """Whether `state`, or a dict or list inside it, has `key`: chained optimizers nest theirs one level deeper."""
    if isinstance(state, dict):
        return key in state or any(has_key(value, key) for value in state.values())
    return isinstance(state, list) and any(has_key(value, key) for value in state)


def contents(folder: Path, chunks: list, optimizer=None) -> str:
    """What a checkpoint has for `chunks` (and `optimizer`), in a sentence: how much is read, and what is left."""
    entries = safe_reading.read_metadata(folder).state_dict_metadata
    tensors = {name: entry.size.numel() for name, entry in entries.items() if hasattr(entry, "size")}
    wanted = {name for _, name, _ in sharded_tensors(sharded_state(chunks, None, is_loading=True))}
    read = [size for name, size in tensors.items() if name in wanted]
    state = [size for name, size in tensors.items() if name.startswith("optimizer.")]
    left = sorted(name for name in tensors if name not in wanted and not name.startswith("optimizer."))
    text = f"{len(read)} tensors with {sum(read):,} weights"
    if state:
        text += f"; {len(state)} tensors of optimizer state{'' if optimizer is not None else ' not read'}"
    if left:
        text += f"; not read: {', '.join(left[:5])}{' and more' if len(left) > 5 else ''}"
    return text


def _unreadable(folder: Path, error: BaseException, remedy: str) -> InputError:
    """The message for what upstream raised; of torch's collection of all ranks' errors the first."""
    if isinstance(error, CheckpointException) and error.failures:
        error = next(iter(error.failures.values()))[0]
    if isinstance(error, InputError):
        return error
    lines = str(error).strip().splitlines()
    what = f"{type(error).__name__}: {lines[0].partition('. ')[0]}" if lines else type(error).__name__
    return InputError(f"{folder} is damaged or incomplete ({what}); {remedy}")
