"""What this machine offers, and what SLURM says about the others; no torch, because it would cost seconds."""

import os
import platform
import re
import shutil
import socket
import subprocess
from pathlib import Path

from pipeline.common.errors import UsageError
from pipeline.settings import Cluster


def slurm(environment: dict[str, str]) -> dict[str, str | int]:
    """`cluster.*` values from SLURM's environment, inside a job step (`srun`); empty elsewhere.

    `SLURM_NODEID` is set for each task of a step and not in the batch script itself, where one node would otherwise
    start waiting for the others.
    """
    if "SLURM_JOB_ID" not in environment or "SLURM_NODEID" not in environment:
        return {}
    values: dict[str, str | int] = {"node_rank": int(environment["SLURM_NODEID"])}
    nnodes = environment.get("SLURM_STEP_NUM_NODES") or environment.get("SLURM_NNODES")
    if nnodes:
        values["nnodes"] = int(nnodes)
    nodes = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_JOB_NODELIST")
    if nodes and values.get("nnodes") != 1:
        values["master_addr"] = first_host(nodes)
    gpus = re.search(r"\d+$", environment.get("SLURM_GPUS_ON_NODE", ""))
    if gpus and int(gpus.group()) > 0:
        values["devices_per_node"] = int(gpus.group())
    return values


def first_host(nodelist: str) -> str:
    """First host of SLURM's compressed list: `gpu[007-010,12],login1` -> `gpu007`."""
    match = re.match(r"([^\[,]+)(?:\[([^\]]+)\]([^,]*))?", nodelist.strip())
    if match is None:
        raise UsageError(f"SLURM's node list {nodelist!r} cannot be read. Give cluster.master_addr=<host of node 0>.")
    prefix, ranges, suffix = match.groups()
    return prefix if ranges is None else prefix + re.split(r"[-,]", ranges)[0] + (suffix or "")


def gpu_count() -> int:
    """NVIDIA GPUs that this process may use."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and visible.strip() in ("", "-1", "none", "NoDevFiles"):
        return 0
    present = len(gpu_names())
    return min(present, len(visible.split(","))) if visible is not None else present


def gpu_names() -> list[str]:
    """NVIDIA GPUs of this machine as its driver lists them."""
    if shutil.which("nvidia-smi") is None:
        return []
    result = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True)
    lines = result.stdout.splitlines() if result.returncode == 0 else []
    return [line.partition(" (UUID")[0].strip() for line in lines if line.startswith("GPU ")]


def processor() -> str:
    """The CPU's name, or its architecture where the system does not tell."""
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text("utf-8"), re.M)
    except OSError:
        found = None
    return found[1] if found else platform.machine()


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def uses_gpus(cluster: Cluster) -> bool:
    """Whether the ranks run on GPUs: as `cluster.device` says, and for auto where there are enough of them."""
    if cluster.device != "auto":
        return cluster.device == "cuda"
    return gpu_count() >= cluster.devices_per_node


def threads_per_rank(cluster: Cluster) -> int:
    """CPU threads of one rank: as set, the cores shared out on a CPU machine, 8 beside a GPU."""
    if cluster.threads_per_rank is not None:
        return cluster.threads_per_rank
    return 8 if uses_gpus(cluster) else max(1, cores() // cluster.devices_per_node)


def check_devices(cluster: Cluster) -> None:
    """Raises `UsageError` if this node has fewer GPUs than the layout was told to use."""
    if cluster.device != "cuda":
        return
    present = gpu_count()
    if present < cluster.devices_per_node:
        raise UsageError(
            f"cluster.devices_per_node={cluster.devices_per_node}, but {socket.gethostname()} offers {present} GPU"
            f"{'' if present == 1 else 's'}. Name as many as there are (cluster.devices_per_node=...), or take"
            " cluster=local, which runs on CPU."
        )


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
                " Give every node another one, for example"
                f" cluster.master_port={cluster.master_port + 1 if cluster.master_port < 65535 else 29500}."
            ) from error


def free_port() -> int:
    """A TCP port of this machine that nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
