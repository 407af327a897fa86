"""Process groups: torch.distributed and Megatron's tensor, pipeline, context, expert and data parallel groups."""

import os
from datetime import timedelta

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.tensor_parallel.random import model_parallel_cuda_manual_seed

from pipeline.common.errors import UsageError
from pipeline.settings import Layout


def device() -> torch.device:
    """Returns this rank's device: the CUDA device LOCAL_RANK, or the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu")


def initialize(layout: Layout, seed: int, timeout_minutes: float = 30.0) -> None:
    """Joins the world of torchrun (or makes a world of one), and makes the groups of `layout`.

    Groups of an earlier call are destroyed first. Collectives time out after `timeout_minutes`. `seed` is that of
    Megatron's parallel random streams.

    Raises UsageError if the world is not a multiple of tp * pp * cp.
    """
    if torch.cuda.is_available():
        torch.cuda.set_device(device())
    if not dist.is_initialized():
        alone = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
        if "RANK" not in os.environ:
            os.environ.update(alone)
        backend = "nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, timeout=timedelta(minutes=timeout_minutes))
    if parallel_state.model_parallel_is_initialized():
        parallel_state.destroy_model_parallel()
    one_copy = layout.tp * layout.pp * layout.cp
    if dist.get_world_size() % one_copy:
        raise UsageError(
            f"layout: {dist.get_world_size()} ranks are not a multiple of tp {layout.tp} x pp {layout.pp} x cp "
            f"{layout.cp} = {one_copy}; change layout.* or the number of devices (cluster.*)"
        )
    parallel_state.initialize_model_parallel(
        tensor_model_parallel_size=layout.tp,
        pipeline_model_parallel_size=layout.pp,
        virtual_pipeline_model_parallel_size=layout.vpp,
        context_parallel_size=layout.cp,
        expert_model_parallel_size=layout.ep,
        expert_tensor_parallel_size=1 if layout.ep > 1 else None,
        distributed_timeout_minutes=int(timeout_minutes) or 1,
    )
    model_parallel_cuda_manual_seed(seed + 1, force_reset_rng=True)


def data_parallel_rank() -> int:
    """Returns this rank's number in its data-parallel group, without context parallelism."""
    return parallel_state.get_data_parallel_rank()


def data_parallel_size() -> int:
    """Returns the number of data-parallel ranks, without context parallelism."""
    return parallel_state.get_data_parallel_world_size()


def is_last_stage() -> bool:
    """Whether this rank holds the policy head (the last pipeline stage)."""
    return parallel_state.is_pipeline_last_stage(ignore_virtual=True)


def finish() -> None:
    """Destroys all process groups, so that no rank waits for one that has ended."""
    if parallel_state.model_parallel_is_initialized():
        parallel_state.destroy_model_parallel()
    if dist.is_initialized():
        dist.destroy_process_group()
