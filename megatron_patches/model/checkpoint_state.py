"""What a checkpoint holds of a model and its optimizer, as Megatron's sharded state."""

import re
from collections.abc import Iterator
from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.dist_checkpointing.mapping import ShardedObject, ShardedTensor, ShardedTensorFactory
from megatron.core.utils import unwrap_model
from torch.distributed.checkpoint.api import CheckpointException

DAMAGE = (Exception, CheckpointException)
"""What a failed save and a damaged checkpoint raise; torch derives the second from BaseException."""
EXTRA_STATE = re.compile(r"_extra_state\d*$")
"""Ends the name of what a module keeps besides tensors; numbered where one module holds several experts."""
SHAPE_FIELDS = (
    "family", "num_layers", "hidden_size", "ffn_hidden_size", "num_attention_heads", "num_query_groups", "head_dim",
    "vocab_size", "tie_word_embeddings", "qkv_bias", "qk_norm",
)  # fmt: skip
"""What must agree between a checkpoint and the model that loads it."""


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


def sharded_state(chunks: list, optimizer: Any, is_loading: bool) -> dict[str, Any]:
    """The state of this rank's `chunks` and `optimizer` (a collective)."""
    metadata = _metadata()
    modules = [unwrap_model(chunk) for chunk in chunks]
    names = ["model"] if len(modules) == 1 else [f"model{i}" for i in range(len(modules))]
    state: dict[str, Any] = {
        name: module.sharded_state_dict(metadata=metadata) for name, module in zip(names, modules, strict=True)
    }
    if is_loading:
        state = {name: _without_extra(module) for name, module in state.items()}
    if optimizer is not None:
        state["optimizer"] = optimizer.sharded_state_dict(state, is_loading=is_loading, metadata=metadata)
        _drop_what_others_gathered(state["optimizer"])
    return state


def _drop_what_others_gathered(optimizer: dict[Any, Any]) -> None:
    """Removes the entry None that ranks have which gathered nothing (megatron-core 0.16.1, distrib_optimizer.py:1462).

    On the rank that gathered, the same entry holds tensors, which are taken out. What is left must be the same on every rank.
    """
    for part in (optimizer, *optimizer.values()):  # of chained optimizers, one dictionary each
        if isinstance(part, dict) and "param_state" in part and part["param_state"] is None:
            del part["param_state"]


def _without_extra(state: dict[str, Any]) -> dict[str, Any]:
    """`state` without the `_extra_state` of modules, which holds FP8 scales and is empty here. It is written, because other
    programs ask for it, and not read: local norms have none, so a checkpoint of local layers lacks some that Transformer
    Engine's ask for."""
    return {key: value for key, value in state.items() if not EXTRA_STATE.search(key)}


def fill(module: torch.nn.Module, state: dict[str, Any]) -> None:
    """Loads `state` into `module`. Raises KeyError if either has a tensor that the other has not."""
    found = module.load_state_dict(state, strict=False)
    wrong = [name for name in (*found.missing_keys, *found.unexpected_keys) if not EXTRA_STATE.search(name)]
    if wrong:
        raise KeyError(f"not both in the checkpoint and in the model: {', '.join(wrong)}")


def sharded_tensors(state: Any, path: tuple = ()) -> Iterator[tuple[tuple, str, torch.Tensor | None]]:
    """Every sharded tensor of a state: its place, its name in the checkpoint, and the data of this rank."""
    if isinstance(state, ShardedTensor | ShardedTensorFactory):
        yield path, state.key, state.data if isinstance(state.data, torch.Tensor) else None
    elif isinstance(state, dict | list) and not isinstance(state, ShardedObject):
        for key, value in state.items() if isinstance(state, dict) else enumerate(state):
            yield from sharded_tensors(value, (*path, key))
