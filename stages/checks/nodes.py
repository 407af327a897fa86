"""What one node of a cluster says of itself, and what is wrong with all nodes together.

`problems` is a pure function of what the nodes said, so that every node comes to the same result.
"""

import hashlib
import os
import resource
import shutil
import socket
import subprocess
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil

from pipeline.run import interfaces, machines
from pipeline.run.door import ROOT
from pipeline.run.memory import GIB
from pipeline.run.shapes import count
from pipeline.run.summary import revision, versions
from pipeline.settings import Cluster, Settings
from pipeline.settings.engine import uses_gpus

CLOCK_SECONDS = 1.0
"""Largest difference of two nodes' clocks: files' times and the order of outcomes depend on them."""
SHM_GIB_PER_RANK = 0.125
"""Of /dev/shm, for NCCL's and gloo's buffers; a container's usual 64 MiB end NCCL."""
FILES_PER_RANK = 64
"""Open files that a process needs for each rank of the job: sockets of NCCL, gloo and the store."""
FILES = 512
"""Open files that a process needs besides."""
NODE_MEMORY_SHARE = 0.9
"""Share of its nominal memory that a node must have."""
SPEED_SHARE = 0.5
"""Share of the assumed bandwidth that must be measured."""


@dataclass(frozen=True)
class Node:
    """One node's report."""

    number: int
    host: str
    revision: str | None
    versions: dict[str, str | None]
    gpus: list[str]
    device_problem: str | None
    """Why the GPUs are not those of the cluster preset."""
    memory_gib: float
    disk_gib: float
    """Free where the run's folder is."""
    shm_gib: float
    """Free in /dev/shm."""
    open_files: int
    """Files that a process may open."""
    host_address: str | None
    """What the node's own host name means to it: gloo listens there, unless GLOO_SOCKET_IFNAME says otherwise (None)."""
    clock_seconds: float = 0.0
    """Its clock minus that of node 0."""
    shared: str | None = None
    """What is wrong with the shared folder, as seen from this node."""
    unreachable: list[str] = field(default_factory=list)
    """Addresses that it cannot connect to, each with its node."""
    bandwidth: dict[str, float] | None = None
    """10^9 bytes a second of its slowest rank: `allreduce`, `link` (within the node), `network` (to the next node)."""
    bandwidth_problem: str | None = None

    @property
    def name(self) -> str:
        return f"node {self.number} ({self.host})"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def look(settings: Settings, folder: Path) -> Node:
    """This node, without what takes the other nodes."""
    host = socket.gethostname()
    shm = shutil.disk_usage("/dev/shm").free if os.path.isdir("/dev/shm") else 0
    return Node(
        number=settings.cluster.node_rank,
        host=host,
        revision=_revision(),
        versions=versions(),
        gpus=list(machines.gpu_names()),
        device_problem=machines.device_problem(settings.cluster),
        memory_gib=psutil.virtual_memory().total / GIB,
        disk_gib=shutil.disk_usage(folder).free / GIB,
        shm_gib=shm / GIB,
        open_files=resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        host_address=None if "GLOO_SOCKET_IFNAME" in os.environ else interfaces.address_of(host) or "",
    )


def _revision() -> str | None:
    """git's, and where files differ from it a hash of the differences."""
    found = revision()
    if found is None or not found.endswith("+changes"):
        return found
    changes = subprocess.run(["git", "-C", str(ROOT), "diff", "HEAD"], capture_output=True).stdout
    return f"{found} {hashlib.sha256(changes).hexdigest()[:8]}"


def problems(nodes: list[Node], settings: Settings) -> list[str]:
    """What is wrong: for each fault the node, the cause and what to do. Empty if nothing is."""
    found = []
    for node in nodes:
        found += [f"{node.name}: {text}" for text in (*_unlike(node, nodes[0]), *_alone(node, settings))]
        found += [f"{node.name}: {text}" for text in _between(node, settings.cluster)]
    return found


def _unlike(node: Node, first: Node) -> list[str]:
    """Differences from node 0."""
    found = []
    if node.revision != first.revision:
        found.append(
            f"its checkout is at {short_revision(node.revision)}, that of node 0 at {short_revision(first.revision)}."
            " Use one shared checkout, or check out the same revision."
        )
    differing = [
        f"{name} is {node.versions.get(name) or 'missing'}, node 0 has {version or 'none'}"
        for name, version in first.versions.items()
        if node.versions.get(name) != version
    ]
    if differing:
        found.append(f"{'; '.join(differing)}. Make the environment again there: bash run.sh stage=doctor")
    kinds, expected = _kinds(node.gpus), _kinds(first.gpus)
    if kinds != expected and node.device_problem is None and first.device_problem is None:
        found.append(f"its GPUs are {kinds}, those of node 0 {expected}. Use nodes of one kind.")
    if abs(node.clock_seconds) > CLOCK_SECONDS:
        found.append(
            f"its clock is {abs(node.clock_seconds):.1f} s {'ahead of' if node.clock_seconds > 0 else 'behind'} node 0."
            " Synchronize the clocks (chrony or ntpd)."
        )
    return found


def _alone(node: Node, settings: Settings) -> list[str]:
    """What a node lacks by itself."""
    cluster = settings.cluster
    found = []
    if node.device_problem:
        found.append(node.device_problem)
    if uses_gpus(cluster) and node.memory_gib < NODE_MEMORY_SHARE * cluster.node_memory_gib:
        found.append(
            f"it has {node.memory_gib:.0f} GiB of memory, and cluster.node_memory_gib={cluster.node_memory_gib:g} is planned."
            f" Give cluster.node_memory_gib={node.memory_gib:.0f}, and look at stage=plan."
        )
    disk = disk_need(settings)
    if node.disk_gib < disk:
        found.append(
            f"{node.disk_gib:.1f} GiB are free for runs_dir={settings.runs_dir}, and checkpoints of"
            f" model={settings.model_name} need {disk:.1f}. Free some, or give another runs_dir."
        )
    shm = SHM_GIB_PER_RANK * cluster.devices_per_node
    if node.shm_gib < shm:
        found.append(
            f"/dev/shm has {node.shm_gib:.2f} GiB free, and {cluster.devices_per_node} ranks need {shm:.2f}."
            " Remove old files there, or start the container with --shm-size (or --ipc=host)."
        )
    files = files_need(cluster)
    if node.open_files < files:
        found.append(f"a process may open {node.open_files} files, and needs {files}. Set ulimit -n {files} or more.")
    return found


def _between(node: Node, cluster: Cluster) -> list[str]:
    """What is wrong between a node and the others."""
    found = []
    if node.shared:
        found.append(node.shared)
    near = cluster.master_addr.startswith("127.") or cluster.master_addr == "localhost"
    if (
        cluster.nnodes > 1
        and not near
        and node.host_address is not None
        and interfaces.is_unreachable(node.host_address)
    ):
        found.append(
            f"its host name means {node.host_address or 'no address'} to it, where gloo would listen and no other node can"
            " connect. Set cluster.interface=<network interface>, or correct its /etc/hosts."
        )
    if node.unreachable:
        found.append(
            f"it cannot connect to {', '.join(node.unreachable)}. Open all TCP ports between the nodes; gloo and NCCL choose"
            " theirs at random."
        )
    if node.bandwidth_problem:
        found.append(f"the collectives failed: {node.bandwidth_problem}")
    for kind, value in (node.bandwidth or {}).items():
        need = SPEED_SHARE * assumed(kind, cluster) if uses_gpus(cluster) else 0.0
        if value < need:
            found.append(
                f"{kind} reaches {value:.1f} GB/s, and the plan assumes {assumed(kind, cluster):g}"
                f" ({setting_of(kind, cluster)}). Look at NVLink (nvidia-smi topo -m) and the network cards (NCCL_DEBUG=INFO),"
                " or plan with the measured number."
            )
    return found


def assumed(kind: str, cluster: Cluster) -> float:
    """10^9 bytes a second that the plan counts on; an all-reduce is as fast as its slowest link."""
    near = kind == "link" or (kind == "allreduce" and cluster.nnodes == 1)
    return cluster.speed.link_gb_s if near else cluster.speed.network_gb_s


def setting_of(kind: str, cluster: Cluster) -> str:
    near = kind == "link" or (kind == "allreduce" and cluster.nnodes == 1)
    return f"cluster.speed.{'link' if near else 'network'}_gb_s"


def disk_need(settings: Settings) -> float:
    """GiB for the checkpoints that are kept, and one being written: weights in bf16, fp32 masters and Adam's moments."""
    return (settings.rl.keep_checkpoints + 1) * 14 * count(settings.model).total / GIB


def files_need(cluster: Cluster) -> int:
    return FILES + FILES_PER_RANK * cluster.nnodes * cluster.devices_per_node


def _kinds(gpus: list[str]) -> str:
    """`GPU 0: NVIDIA H100 80GB HBM3` -> the names without repeats."""
    return ", ".join(sorted({line.partition(": ")[2] or line for line in gpus})) or "none"


def short_revision(name: str | None) -> str:
    """A revision as git abbreviates it, with what follows it."""
    if name is None:
        return "no git revision"
    head, plus, rest = name.partition("+")
    return head[:10] + plus + rest
