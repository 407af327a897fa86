"""Megatron distributed checkpoints: written whole or not at all, readable at any tensor, pipeline and data parallel size.

A checkpoint folder holds `iter_0000020/` and `latest_checkpointed_iteration.txt`, as Megatron-LM writes them. An
iteration is saved under a temporary name and renamed when every rank has finished; only then does `latest` move on. A
kill at any moment leaves the last whole one in force.
"""

import queue
import re
import shutil
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import dist_checkpointing, parallel_state
from megatron.core.dist_checkpointing.serialization import get_default_load_sharded_strategy
from megatron.core.dist_checkpointing.strategies import filesystem_async
from megatron.core.dist_checkpointing.strategies.torch import TorchDistSaveShardedStrategy
from megatron.core.utils import unwrap_model
from torch.distributed.checkpoint.api import CheckpointException

from pipeline.common.errors import InputError
from pipeline.common.files import write_text
from pipeline.settings import Model

LATEST = "latest_checkpointed_iteration.txt"
DAMAGE = (Exception, CheckpointException)
"""What a damaged checkpoint raises; torch derives the second from BaseException."""
SHAPE_FIELDS = (
    "family", "num_layers", "hidden_size", "ffn_hidden_size", "num_attention_heads", "num_query_groups", "head_dim",
    "vocab_size", "tie_word_embeddings", "qkv_bias", "qk_norm",
)  # fmt: skip
"""What must agree between a checkpoint and the model that loads it."""


def iteration_folder(root: Path, iteration: int) -> Path:
    return root / f"iter_{iteration:07d}"


def latest_iteration(root: Path) -> int | None:
    """The newest whole iteration under `root`, or None. Raises InputError when `latest` names one that is not there."""
    tracker = root / LATEST
    if not tracker.exists():
        return None
    text = tracker.read_text("utf-8", "backslashreplace").strip()
    if not re.fullmatch("[0-9]+", text) or not iteration_folder(root, int(text)).is_dir():
        raise InputError(
            f"{tracker} says {text!r}, but {root} has no such iteration. Write the number of one that is there into the "
            f"file: {', '.join(str(n) for n in _iterations(root)) or 'none is; delete the file to start anew'}"
        )
    return int(text)


def _iterations(root: Path) -> list[int]:
    found = (re.fullmatch(r"iter_(\d{7})", path.name) for path in root.iterdir())
    return sorted(int(match[1]) for match in found if match)


def _metadata() -> dict[str, Any]:
    return {
        "dp_cp_group": parallel_state.get_data_parallel_group(with_context_parallel=True),
        "singleton_local_shards": False,
        # The one optimizer format that loads at another layout (see docs/patches.md).
        "distrib_optim_sharding_type": "fully_reshardable",
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
    root: Path, iteration: int, chunks: list, model: Model, *, optimizer=None, common: dict, keep: int | None = None
):
    """Save `iteration` under `root` (a collective of all ranks).

    `common` is small state that is the same on every rank. With `keep`, only that many newest iterations stay. Raises
    OSError (disk full) on every rank if one rank failed; what was there before is untouched.
    """
    final = iteration_folder(root, iteration)
    temporary = root / f".{final.name}.writing"
    if dist.get_rank() == 0:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
    dist.barrier()
    # Upstream's queue for the writers' results starts a spawned manager process, which imports the entry script again
    # (seconds, and a hang without a __main__ guard). A synchronous save reads it in this very process.
    filesystem_async._results_queue = queue.Queue()
    state = _sharded_state(chunks, optimizer, is_loading=False)
    state |= {"common": common, "iteration": iteration, "shape": {f: getattr(model, f) for f in SHAPE_FIELDS}}
    try:
        dist_checkpointing.save(state, str(temporary), TorchDistSaveShardedStrategy("torch_dist", 1, thread_count=1))
    except DAMAGE:
        shutil.rmtree(temporary, ignore_errors=True)  # half of it would only fill the disk
        raise
    dist.barrier()
    if dist.get_rank() == 0:
        if final.exists():
            shutil.rmtree(final)
        temporary.rename(final)
        write_text(root / LATEST, str(iteration))
        for old in _iterations(root)[: -keep or None] if keep else []:
            if old != iteration:
                shutil.rmtree(iteration_folder(root, old), ignore_errors=True)
    dist.barrier()


def load(root: Path, iteration: int, chunks: list, model: Model, *, optimizer=None) -> dict:
    """Load `iteration` into `chunks` (and `optimizer`), whatever layout it was saved at; returns its `common` state.

    Raises InputError naming the folder when it is damaged or of another model.
    """
    folder = iteration_folder(root, iteration)
    remedy = f"delete {folder} and write an older iteration into {root / LATEST}, or make it again"
    try:
        saved = dist_checkpointing.load_common_state_dict(str(folder))
    except DAMAGE as error:
        raise InputError(f"{folder} is no readable Megatron checkpoint ({_first_line(error)}); {remedy}") from error
    for field, value in saved.get("shape", {}).items():
        if value != getattr(model, field):
            raise InputError(
                f"{folder} is of another model: its {field} is {value!r}, the configured model's is "
                f"{getattr(model, field)!r}; take the preset it was made with, or another name="
            )
    try:
        state = dist_checkpointing.load(
            _sharded_state(chunks, optimizer, is_loading=True),
            str(folder),
            get_default_load_sharded_strategy(str(folder)),
        )
    except DAMAGE as error:
        raise InputError(f"{folder} is damaged or incomplete ({_first_line(error)}); {remedy}") from error
    modules = [unwrap_model(chunk) for chunk in chunks]
    for i, module in enumerate(modules):
        module.load_state_dict(state["model" if len(modules) == 1 else f"model{i}"])
    if optimizer is not None:
        with torch.no_grad():
            optimizer.load_state_dict(state["optimizer"])
    return state["common"]


def _first_line(error: BaseException) -> str:
    """What is wrong, in one sentence; of torch's collection of all ranks' errors the first."""
    if isinstance(error, CheckpointException) and error.failures:
        error = next(iter(error.failures.values()))[0]
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0].partition('. ')[0]}" if lines else type(error).__name__
