"""What this machine has, and what SLURM says about the other nodes; no torch, because importing it takes seconds."""

import math
import re
import socket

import yaml

from pipeline.common.devices import cores, gpu_count, gpu_memories, gpu_names, processor
from pipeline.common.errors import UsageError
from pipeline.run.door import ROOT
from pipeline.settings import Cluster
from pipeline.settings.engine import uses_gpus

__all__ = [
    "check_devices", "check_port", "cores", "first_host", "free_port", "gpu_count", "gpu_names", "processor", "slurm",
    "threads_per_rank", "uses_gpus",
]  # fmt: skip


def slurm(environment: dict[str, str]) -> dict[str, str | int]:
    """`cluster.*` values from SLURM's environment, inside a job step (`srun`); empty elsewhere.

    `SLURM_NODEID` is set for each task of a step and not in the batch script itself, where one node would otherwise
    start waiting for the others.
    """
    if "SLURM_JOB_ID" not in environment or "SLURM_NODEID" not in environment:
        return {}
    values: dict[str, str | int] = {"node_rank": _whole("SLURM_NODEID", environment["SLURM_NODEID"])}
    for name in ("SLURM_STEP_NUM_NODES", "SLURM_NNODES"):
        if environment.get(name) and "nnodes" not in values:
            values["nnodes"] = _whole(name, environment[name])
    nodes = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_JOB_NODELIST")
    if nodes and values.get("nnodes") != 1:
        values["master_addr"] = first_host(nodes)
    gpus = re.search(r"\d+$", environment.get("SLURM_GPUS_ON_NODE", ""))
    if gpus and int(gpus.group()) > 0:
        values["devices_per_node"] = int(gpus.group())
    return values


def _whole(name: str, text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise UsageError(f"SLURM's {name}={text!r} is not a whole number. Start the stage with `srun bash run.sh ...`.")
    return int(text)


def first_host(nodelist: str) -> str:
    """First host of SLURM's compressed list: `gpu[007-010,12],login1` -> `gpu007`."""
    match = re.match(r"([^\[,]+)(?:\[([^\]]+)\]([^,]*))?", nodelist.strip())
    if match is None:
        raise UsageError(f"SLURM's node list {nodelist!r} cannot be read. Give cluster.master_addr=<host of node 0>.")
    prefix, ranges, suffix = match.groups()
    return prefix if ranges is None else prefix + re.split(r"[-,]", ranges)[0] + (suffix or "")


def threads_per_rank(cluster: Cluster) -> int:
    """CPU threads of one rank: as set, the cores shared out on a CPU machine, 8 beside a GPU."""
    if cluster.threads_per_rank is not None:
        return cluster.threads_per_rank
    return 8 if uses_gpus(cluster) else max(1, cores() // cluster.devices_per_node)


TOLERANCE = 0.95
"""Share of its nominal memory that a GPU must have: an 80 GB card states 79.6 GiB."""


def check_devices(cluster: Cluster) -> None:
    """Raises `UsageError` if this node's GPUs are fewer or smaller than the cluster preset says."""
    problem = device_problem(cluster)
    if problem:
        raise UsageError(problem)


def device_problem(cluster: Cluster) -> str | None:
    """Why this node's GPUs are not those of the cluster preset, with the presets that fit; None if they are."""
    if cluster.device != "cuda":
        return None
    present, host = gpu_count(), socket.gethostname()
    if present < cluster.devices_per_node:
        return (
            f"cluster.devices_per_node={cluster.devices_per_node}, but {host} offers {present} GPU"
            f"{'' if present == 1 else 's'}. Give cluster.devices_per_node={present or '...'}, or use cluster=local, which"
            " runs on CPU."
        )
    smallest = min(gpu_memories(), default=math.inf)
    if smallest >= TOLERANCE * cluster.device_memory_gib:
        return None
    fitting = _fitting_presets(smallest, present)
    return (
        f"cluster.device_memory_gib={cluster.device_memory_gib:g}, but the smallest GPU of {host} has {smallest:.1f} GiB, so"
        f" the run was planned for memory that is not there. Use {' or '.join([*fitting, ''])}"
        f"cluster.device_memory_gib={math.floor(smallest)}, and look at stage=plan."
    )


def _fitting_presets(memory: float, count: int) -> list[str]:
    """`cluster=<name>` of the GPU presets that need at most this memory (GiB) and count, the largest first."""
    found = []
    for file in (ROOT / "configs" / "cluster").glob("*.yaml"):
        preset = yaml.safe_load(file.read_text("utf-8"))["cluster"]
        fits = preset["devices_per_node"] <= count and preset["device_memory_gib"] * TOLERANCE <= memory
        if preset["device"] == "cuda" and fits:
            found.append((preset["devices_per_node"], preset["device_memory_gib"], file.stem))
    return [f"cluster={name}" for _, _, name in sorted(found, reverse=True)]


def check_port(cluster: Cluster) -> None:
    """Raises `UsageError` if node 0 of several cannot listen on the rendezvous port; one node picks a free port."""
    if cluster.nnodes == 1 or cluster.node_rank != 0:
        return
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", cluster.master_port))
        except OSError as error:
            raise UsageError(
                f"cluster.master_port={cluster.master_port} is in use on {socket.gethostname()} ({error.strerror})."
                " Give every node the same free port, for example"
                f" cluster.master_port={cluster.master_port + 1 if cluster.master_port < 65535 else 29500}."
            ) from error


def free_port() -> int:
    """A TCP port of this machine that nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
