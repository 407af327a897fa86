"""The machines."""

from typing import Literal

from pydantic import Field

from pipeline.settings.base import Section


class Speed(Section):
    """How fast one device is, for a rehearsal's seconds (`rehearse=true`). Data sheets' figures, except `efficiency`.

    The defaults are those of an H100 SXM with 400 Gb/s of network.
    """

    tflops: float = Field(989.0, gt=0)
    """Peak of dense matrix products in the model's type, 10^12 operations a second."""
    memory_gb_s: float = Field(3350.0, gt=0)
    """Device memory bandwidth, 10^9 bytes a second."""
    link_gb_s: float = Field(450.0, gt=0)
    """Bandwidth between devices of a node, each way, 10^9 bytes a second and device."""
    network_gb_s: float = Field(50.0, gt=0)
    """Bandwidth between nodes, each way, 10^9 bytes a second and device."""
    host_gb_s: float = Field(50.0, gt=0)
    """Bandwidth between a device and its host, each way, 10^9 bytes a second (PCIe 5 x16), for levers that move the actor."""
    efficiency: float = Field(0.6, gt=0, le=1)
    """Share of `tflops` that large matrix products reach: an assumption, measure it with `bench what=policy_head`."""


class Cluster(Section):
    """A cluster preset: `configs/cluster/<name>.yaml`. Under SLURM nnodes, node_rank, master_addr and devices_per_node are
    read from its environment."""

    nnodes: int = Field(1, ge=1)
    """Number of machines."""
    node_rank: int = Field(0, ge=0)
    """Number of this machine, counted from 0."""
    master_addr: str = "127.0.0.1"
    """Host name or address of node 0, where the nodes meet."""
    master_port: int = Field(29500, ge=1, le=65535)
    """TCP port at which node 0 awaits the others."""
    devices_per_node: int = Field(8, ge=1)
    """Ranks started on each node: GPUs, or processes on a CPU machine."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """What the ranks run on. auto: GPUs if each node has `devices_per_node` of them, the CPU otherwise."""
    device_memory_gib: float = Field(80.0, gt=0)
    """Memory of one device in GiB, for the plan's estimate."""
    node_memory_gib: float = Field(1024.0, gt=0)
    """Host memory of one node in GiB, for the plan's estimate."""
    max_restarts: int = Field(0, ge=0)
    """How often torchrun starts all ranks again after one failed."""
    speed: Speed = Speed()
    """How fast a device is."""
    interface: str | None = None
    """Network interface between the nodes, such as eth0, for gloo and NCCL; none: that of the host's name."""
    timeout_minutes: float = Field(10.0, gt=0)
    """Minutes without a sign of life, or in one phase without progress, after which a rank is ended and named. Generation,
    evaluation, sync, saving and the first step may take three times as long."""
    threads_per_rank: int | None = Field(None, ge=1)
    """CPU threads of one rank; none: cores / ranks on a CPU machine, 8 otherwise."""

    @property
    def collective_minutes(self) -> float:
        """Minutes that a collective may wait. Longer than any phase, so that the rank that is missing is named before its
        peers give up."""
        return 4 * self.timeout_minutes
