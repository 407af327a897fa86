"""Megatron distributed checkpoints: written whole or not at all, readable at any tensor, pipeline and data parallel size.

An iteration is saved under a temporary name and renamed when every rank has finished; only then does `latest` move on. A
kill at any moment leaves the last whole one in force. Weights or optimizer state with NaN or infinity are neither saved
nor loaded. What a folder's pickles may ask for is limited (`safe_reading`), its files are checked by sums
(`checkpoint_folder`).
"""

import queue
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import dist_checkpointing, parallel_state
from megatron.core.dist_checkpointing.mapping import ShardedObject, ShardedTensor, ShardedTensorFactory
from megatron.core.dist_checkpointing.serialization import get_default_load_sharded_strategy
from megatron.core.dist_checkpointing.strategies import filesystem_async
from megatron.core.dist_checkpointing.strategies.torch import TorchDistSaveShardedStrategy
from megatron.core.utils import unwrap_model
from torch.distributed.checkpoint.api import CheckpointException

from megatron_patches.model import safe_reading
from megatron_patches.model.checkpoint_folder import (
    LATEST,
    clear_unfinished,
    damage,
    iteration_folder,
    iterations,
    latest_iteration,
    newest_whole,
    write_sums,
)
from megatron_patches.model.finite import anywhere, first_nonfinite, first_on_any_rank
from pipeline.common.errors import InputError, UserError
from pipeline.common.files import read_json, write_json, write_text
from pipeline.settings import Model

__all__ = [
    "NonFiniteError", "clear_unfinished", "contents", "iteration_folder", "latest_iteration", "load", "load_folder",
    "newest_whole", "save",
]  # fmt: skip

DAMAGE = (Exception, CheckpointException)
"""What a damaged checkpoint raises; torch derives the second from BaseException."""
BEST = "best.json"
"""The iteration that `best` keeps, and its score."""
SHAPE_FIELDS = (
    "family", "num_layers", "hidden_size", "ffn_hidden_size", "num_attention_heads", "num_query_groups", "head_dim",
    "vocab_size", "tie_word_embeddings", "qkv_bias", "qk_norm",
)  # fmt: skip
"""What must agree between a checkpoint and the model that loads it."""


class NonFiniteError(UserError):
    """Weights or optimizer state hold NaN or infinity, so they are not saved."""


def _metadata() -> dict[str, Any]:
    return {
        "dp_cp_group": parallel_state.get_data_parallel_group(with_context_parallel=True),
        "singleton_local_shards": False,
        # The one optimizer format that loads at another layout (see docs/patches.md).
        "distrib_optim_sharding_type": "fully_reshardable",
        # The optimizer's state is gathered in host memory, over gloo: on the device it would take 4 bytes a parameter
        # for the shards of all ranks and 4 for this rank's, 30 GiB at 32b on one node.
        "distrib_optim_fully_reshardable_mem_efficient": True,
    }


def _sharded_state(chunks: list, optimizer, is_loading: bool) -> dict[str, Any]:
    metadata = _metadata()
    modules = [unwrap_model(chunk) for chunk in chunks]
    names = ["model"] if len(modules) == 1 else [f"model{i}" for i in range(len(modules))]
    state: dict[str, Any] = {
        name: module.sharded_state_dict(metadata=metadata) for name, module in zip(names, modules, strict=True)
    }
    if optimizer is not None:
        state["optimizer"] = optimizer.sharded_state_dict(state, is_loading=is_loading, metadata=metadata)
    return state


def save(
    root: Path,
    iteration: int,
    chunks: list,
    model: Model,
    *,
    optimizer=None,
    common: dict,
    keep: int | None = None,
    best: tuple[str, float] | None = None,
):
    """Save `iteration` under `root` (a collective of all ranks).

    `common` is small state that is the same on every rank. With `keep`, only that many newest iterations stay, and
    the one with the largest score: `best` is the score's name and this iteration's value.

    Raises NonFiniteError on every rank if any rank's state is not finite, and OSError (disk full) if one rank failed;
    what was there before is untouched.
    """
    final = iteration_folder(root, iteration)
    temporary = root / f".{final.name}.writing"
    if optimizer is not None:
        _start_moments(optimizer)
    state = _sharded_state(chunks, optimizer, is_loading=False)
    _refuse_nonfinite(state, final)
    if dist.get_rank() == 0:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
    dist.barrier()
    # Upstream's queue for the writers' results starts a spawned manager process, which imports the entry script again
    # (seconds, and a hang without a __main__ guard). A synchronous save reads it in this very process.
    filesystem_async._results_queue = queue.Queue()
    state |= {"common": common, "iteration": iteration, "shape": {f: getattr(model, f) for f in SHAPE_FIELDS}}
    try:
        dist_checkpointing.save(state, str(temporary), TorchDistSaveShardedStrategy("torch_dist", 1, thread_count=1))
        dist.barrier()
        write_sums(temporary)
    except DAMAGE:
        shutil.rmtree(temporary, ignore_errors=True)  # half of it would only fill the disk
        raise
    dist.barrier()
    if dist.get_rank() == 0:
        if final.exists():
            shutil.rmtree(final)
        temporary.rename(final)
        write_text(root / LATEST, str(iteration))
        _rotate(root, iteration, keep, best)
    dist.barrier()


def _start_moments(optimizer: Any) -> None:
    """Give Adam the zero moments that it would make at its first step, where every step so far was skipped: Megatron's
    state dict expects them."""
    for inner in optimizer.chained_optimizers:
        if inner.optimizer is not None and inner.init_state_fn is not None:
            inner.init_state_fn(inner.optimizer, inner.config)
            for group in inner.optimizer.param_groups:
                group.setdefault("step", 0)


def _rotate(root: Path, iteration: int, keep: int | None, best: tuple[str, float] | None) -> None:
    """Delete iterations beyond the `keep` newest, except the one just saved and the best."""
    spared = {iteration}
    if best is not None:
        name, score = best
        old = read_json(root / BEST) if (root / BEST).exists() else {}
        held = old.get("iteration") if old.get("metric") == name else None
        if held in iterations(root) and held != iteration and old["score"] >= score:
            spared.add(held)
        else:
            write_json(root / BEST, {"iteration": iteration, "metric": name, "score": score})
    for old_iteration in iterations(root)[: -keep or None] if keep else []:
        if old_iteration not in spared:
            shutil.rmtree(iteration_folder(root, old_iteration), ignore_errors=True)


def _refuse_nonfinite(state: dict, folder: Path) -> None:
    """Raises NonFiniteError on all ranks if the state of any is not finite (a collective)."""
    found = first_nonfinite((name, tensor) for _, name, tensor in _sharded(state) if tensor is not None)
    if anywhere(found is not None):
        rank, name = first_on_any_rank(found) or (0, "")
        raise NonFiniteError(
            f"{folder} is not saved: {name} on rank {rank} holds NaN or infinity. Earlier checkpoints are untouched. "
            "Continue from the newest with a smaller learning rate, or correct the loss."
        )


def _sharded(state: Any, path: tuple = ()) -> Iterator[tuple[tuple, str, torch.Tensor | None]]:
    """Every sharded tensor of a state: its place, its name in the checkpoint, and the data of this rank."""
    if isinstance(state, ShardedTensor | ShardedTensorFactory):
        yield path, state.key, state.data if isinstance(state.data, torch.Tensor) else None
    elif isinstance(state, dict | list) and not isinstance(state, ShardedObject):
        for key, value in state.items() if isinstance(state, dict) else enumerate(state):
            yield from _sharded(value, (*path, key))


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
    """Load `iteration` under `root`, as `load_folder` does. `checked`: its files have just been found whole."""
    folder = iteration_folder(root, iteration)
    remedy = f"delete {folder} and write an older iteration into {root / LATEST}, or make it again"
    return load_folder(folder, chunks, model, optimizer=optimizer, checked=checked, remedy=remedy)


def load_folder(
    folder: Path, chunks: list, model: Model, *, optimizer=None, checked: bool = False, remedy: str = "make it again"
) -> dict[str, Any]:
    """Load a checkpoint into `chunks` (and `optimizer`), whatever layout it was saved at (a collective); returns its
    `common` state, which is empty where another program wrote the checkpoint.

    Raises InputError naming the folder when it is damaged, of another model, not finite, or asks for foreign classes.
    """
    wrong = None if checked else damage(folder)
    if wrong is not None:
        raise InputError(f"{folder} is damaged: {wrong}; {remedy}")
    saved = safe_reading.read_common(folder)
    safe_reading.read_metadata(folder)  # before upstream reads it on rank 0 alone and wraps what goes wrong
    for field, value in saved.get("shape", {}).items():
        if value != getattr(model, field):
            raise InputError(
                f"{folder} is of another model: its {field} is {value!r}, the configured model's is "
                f"{getattr(model, field)!r}; take the preset it was made with, or another name="
            )
    template = _sharded_state(chunks, optimizer, is_loading=True)
    names = {path: name for path, name, _ in _sharded(template)}
    try:
        state = dist_checkpointing.load(template, str(folder), get_default_load_sharded_strategy(str(folder)))
    except DAMAGE as error:
        raise _unreadable(folder, error, remedy) from error
    sharded = {key: value for key, value in state.items() if key.startswith("model") or key == "optimizer"}
    found = first_nonfinite((names.get(path, ".".join(map(str, path))), tensor) for path, tensor in _tensors(sharded))
    if anywhere(found is not None):
        _, name = first_on_any_rank(found) or (0, "")
        raise InputError(f"{folder} is not loaded: {name} holds NaN or infinity; {remedy}")
    modules = [unwrap_model(chunk) for chunk in chunks]
    for i, module in enumerate(modules):
        module.load_state_dict(state["model" if len(modules) == 1 else f"model{i}"])
    if optimizer is not None:
        with torch.no_grad():
            optimizer.load_state_dict(state["optimizer"])
    return state.get("common", {})


def contents(folder: Path, chunks: list, optimizer=None) -> str:
    """What a checkpoint has for `chunks` (and `optimizer`), in a sentence: how much is read, and what is left."""
    entries = safe_reading.read_metadata(folder).state_dict_metadata
    tensors = {name: entry.size.numel() for name, entry in entries.items() if hasattr(entry, "size")}
    wanted = {name for _, name, _ in _sharded(_sharded_state(chunks, None, is_loading=True))}
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
