"""The machines."""

from typing import Literal

from pydantic import Field

from pipeline.settings.base import Section


class Cluster(Section):
    """A cluster preset: `configs/cluster/<name>.yaml`. Under SLURM the first four are read from its environment."""

    nnodes: int = Field(1, ge=1)
    node_rank: int = Field(0, ge=0)
    master_addr: str = "127.0.0.1"
    master_port: int = Field(29500, ge=1, le=65535)
    devices_per_node: int = Field(8, ge=1)
    """Ranks started on each node: GPUs, or processes on a CPU machine."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    device_memory_gib: float = Field(80.0, gt=0)
    """Memory of one device, for the plan's estimate."""
    node_memory_gib: float = Field(1024.0, gt=0)
    max_restarts: int = Field(0, ge=0)
    """How often torchrun starts all ranks again after one died."""
    timeout_minutes: float = Field(30.0, gt=0)
    """How long a collective may wait before the run is given up."""
    threads_per_rank: int | None = Field(None, ge=1)
    """CPU threads of one rank; none: cores / ranks on a CPU machine, 8 otherwise."""
