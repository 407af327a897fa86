"""Can these nodes work together? `stage=doctor check=cluster`, started on every node with the same command.

One process a node. The nodes meet at node 0's port, as the ranks of every other stage do, and exchange reports through that
store. Each node then judges all reports, so that all print the same screen and end with the same code.
"""

import contextlib
import json
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

from torch.distributed import DistError, DistNetworkError, Store, TCPStore

from pipeline.common.addresses import listener
from pipeline.common.errors import InputError
from pipeline.common.files import write_text
from pipeline.common.tables import aligned
from pipeline.run import machines
from pipeline.run.meeting import serve
from pipeline.settings import Cluster
from pipeline.settings.engine import uses_gpus
from pipeline.stage import StageRun
from stages.checks import bandwidth, nodes
from stages.checks.nodes import Node

JOIN_MINUTES = 5.0
"""How long the nodes wait for the last to be started."""
ANSWER_MINUTES = 4.0
"""How long one node waits for what another has to say: above the time limit of the bandwidth measurement."""
BANDWIDTH_SECONDS = 150
CONNECT_SECONDS = 5.0
SHARED_SECONDS = 10.0
"""A network file system may show a new file some seconds late."""
MEGABYTES_GPU, MEGABYTES_CPU = 512, 16
"""What one exchange sends."""


@dataclass(frozen=True)
class Meeting:
    """The nodes' common store, seen from one of them."""

    store: Store
    node: int
    count: int

    def say(self, topic: str, value: object) -> None:
        self.store.set(f"{topic}/{self.node}", json.dumps(value))

    def heard(self, topic: str, minutes: float = ANSWER_MINUTES) -> list:
        """What every node says on a topic. Raises InputError naming the nodes that say nothing in time."""
        deadline = time.monotonic() + 60 * minutes
        missing = []
        for node in range(self.count):
            left = max(deadline - time.monotonic(), 0.1)
            try:
                self.store.wait([f"{topic}/{node}"], timedelta(seconds=left))
            except (DistError, RuntimeError):
                missing.append(str(node))
        if missing:
            raise InputError(
                f"No answer from node{'s' * (len(missing) > 1)} {', '.join(missing)} in {minutes:g} minutes ({topic})."
                " Start the same command there, with its own cluster.node_rank, and look at its screen."
            )
        return [json.loads(self.store.get(f"{topic}/{node}")) for node in range(self.count)]


def main(run: StageRun) -> dict:
    """Checks all nodes; raises InputError (exit code 3) that names every fault, on every node."""
    cluster = run.settings.cluster
    machines.check_port(cluster)
    if cluster.nnodes > 1:
        print(f"node {cluster.node_rank} of {cluster.nnodes}: waiting for the others", flush=True)
    meeting = Meeting(join(cluster), cluster.node_rank, cluster.nnodes)
    report = nodes.look(run.settings, run.folder())
    everyone = exchange(meeting, report, run.folder(), cluster)
    faults = nodes.problems(everyone, run.settings)
    if not faults:
        everyone = measured(meeting, everyone[cluster.node_rank], cluster)
        faults = nodes.problems(everyone, run.settings)
    print("\n".join(screen(everyone, faults, cluster)), flush=True)
    meeting.say("read", True)
    if meeting.node == 0:
        with contextlib.suppress(InputError):  # it holds the store until all have read
            meeting.heard("read", minutes=0.5)
    if faults:
        raise InputError("\n".join(["These nodes cannot work together yet:", *(f"- {fault}" for fault in faults)]))
    return {}


def join(cluster: Cluster) -> TCPStore:
    """The store at node 0's port, which is open at the address of node 0's name alone, as in every other stage.

    Raises InputError if node 0 cannot be reached.
    """
    several = cluster.nnodes > 1
    host, port = (cluster.master_addr, cluster.master_port) if several else ("127.0.0.1", 0)
    if cluster.node_rank == 0:
        return serve(host, port, 60 * JOIN_MINUTES)[0]
    try:
        return TCPStore(host, port, is_master=False, wait_for_workers=False, timeout=timedelta(minutes=JOIN_MINUTES))
    except DistNetworkError as error:
        raise InputError(
            f"node {cluster.node_rank} ({socket.gethostname()}) cannot reach node 0 at"
            f" {cluster.master_addr}:{cluster.master_port} ({str(error).splitlines()[0]}). Start the command on node 0,"
            " give every node the same cluster.master_addr and cluster.master_port, and open that port."
        ) from error


def exchange(
    meeting: Meeting, node: Node, folder: Path, cluster: Cluster, clock: Callable[[], float] = time.time
) -> list[Node]:
    """Every node's report with what takes two nodes: clock, shared folder, connections."""
    meeting.say("here", node.host)
    meeting.heard("here", JOIN_MINUTES)
    skew = clock_difference(meeting, clock)
    shared = shared_folder(meeting, folder)
    unreachable = connections(meeting, own_address(cluster))
    report = replace(node, clock_seconds=skew, shared=shared, unreachable=unreachable)
    return published(meeting, "report", report)


def published(meeting: Meeting, topic: str, node: Node) -> list[Node]:
    meeting.say(topic, node.to_json())
    return [Node(**values) for values in meeting.heard(topic)]


def clock_difference(meeting: Meeting, clock: Callable[[], float]) -> float:
    """Seconds that this node's clock is ahead of node 0's: both read it when node 0 gives the sign."""
    meeting.say("ready", True)
    if meeting.node == 0:
        meeting.heard("ready")
        meeting.store.set("sign", "now")
    else:
        meeting.store.wait(["sign"], timedelta(minutes=ANSWER_MINUTES))
    meeting.say("clock", clock())
    times = meeting.heard("clock")
    return times[meeting.node] - times[0]


def shared_folder(meeting: Meeting, folder: Path) -> str | None:
    """What is wrong with the run's folder: each node writes a file there, and must see those of all nodes."""
    token = secrets.token_hex(8)
    write_text(folder / _token_file(meeting.node), token)
    meeting.say("token", token)
    tokens = meeting.heard("token")
    unseen = [node for node, expected in enumerate(tokens) if not _appears(folder / _token_file(node), expected)]
    meeting.say("seen", unseen)
    meeting.heard("seen")  # all have looked
    (folder / _token_file(meeting.node)).unlink(missing_ok=True)
    if not unseen:
        return None
    names = ", ".join(f"node {node}" for node in unseen)
    return (
        f"{folder.absolute()} does not hold what {names} wrote there: the folder is not shared. Give runs_dir=<a folder on a"
        " file system that all nodes see>."
    )


def _token_file(node: int) -> str:
    return f"token.node{node}"


def _appears(path: Path, text: str) -> bool:
    deadline = time.monotonic() + SHARED_SECONDS
    while True:
        with contextlib.suppress(OSError):
            if path.read_text("utf-8") == text:
                return True
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)


def own_address(cluster: Cluster) -> str:
    """The address from which this node reaches node 0; of node 0 the one that the others use."""
    if cluster.nnodes == 1 or cluster.node_rank == 0:
        return cluster.master_addr
    with socket.create_connection((cluster.master_addr, cluster.master_port), CONNECT_SECONDS) as probe:
        return probe.getsockname()[0]


def connections(meeting: Meeting, address: str) -> list[str]:
    """Addresses of other nodes that this one cannot connect to, at a port that the system chooses: so do gloo, NCCL and the
    stores of the ranks."""
    with listener(address, 0) as opened:
        meeting.say("address", [address, opened.getsockname()[1]])
        offers = meeting.heard("address")
        failed = [
            f"node {node} at {host}:{port}"
            for node, (host, port) in enumerate(offers)
            if node != meeting.node and not _connects(host, port)
        ]
        meeting.say("connected", True)
        meeting.heard("connected")  # the ports stay open until all have tried
    return failed


def _connects(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), CONNECT_SECONDS).close()
    except OSError:
        return False
    return True


def measured(meeting: Meeting, node: Node, cluster: Cluster) -> list[Node]:
    """Every node's report with its bandwidth: one process a device on each node, which meet at the same store."""
    store = meeting.store
    assert isinstance(store, TCPStore)
    on_gpu = uses_gpus(cluster)
    processes = [
        subprocess.Popen(
            [
                sys.executable,
                *bandwidth.arguments(_place(cluster, local, on_gpu), store.host, store.port),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for local in range(cluster.devices_per_node)
    ]
    with _ended(processes):
        rates, problem = _results(processes)
    slowest = {kind: min(rate[kind] for rate in rates) for kind in (rates[0] if rates else {})}
    return published(meeting, "bandwidth", replace(node, bandwidth=slowest, bandwidth_problem=problem))


def _place(cluster: Cluster, local: int, on_gpu: bool) -> bandwidth.Rank:
    return bandwidth.Rank(
        rank=cluster.node_rank * cluster.devices_per_node + local,
        local_rank=local,
        per_node=cluster.devices_per_node,
        nodes=cluster.nnodes,
        on_gpu=on_gpu,
        megabytes=MEGABYTES_GPU if on_gpu else MEGABYTES_CPU,
    )


@contextlib.contextmanager
def _ended(processes: list[subprocess.Popen[str]]) -> Iterator[None]:
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def _results(processes: list[subprocess.Popen[str]]) -> tuple[list[dict[str, float]], str | None]:
    """What the ranks of this node measured, or the last line of the first that failed."""
    rates = []
    deadline = time.monotonic() + BANDWIDTH_SECONDS
    for local, process in enumerate(processes):
        try:
            out, err = process.communicate(timeout=max(deadline - time.monotonic(), 0.1))
        except subprocess.TimeoutExpired:
            return [], f"device {local} did not end in {BANDWIDTH_SECONDS} s"
        if process.returncode:
            last = (err.strip().splitlines() or [f"exit code {process.returncode}"])[-1]
            return [], f"device {local}: {last[:300]}"
        rates.append(json.loads(out.strip().splitlines()[-1]))
    return rates, None


def screen(everyone: list[Node], faults: list[str], cluster: Cluster) -> list[str]:
    """All nodes in one table, and what was measured beside what the plan assumes."""
    headings = ("node", "host", "revision", "GPUs", "memory", "disk", "shm", "files", "clock", "folder")
    first = everyone[0]
    rows = [
        (
            str(node.number),
            node.host,
            nodes.short_revision(node.revision),
            str(len(node.gpus)),
            f"{node.memory_gib:.0f} GiB",
            f"{node.disk_gib:.0f} GiB",
            f"{node.shm_gib:.1f} GiB",
            str(node.open_files),
            f"{node.clock_seconds:+.2f} s",
            "not shared" if node.shared else "shared" if len(everyone) > 1 else "one node",
        )
        for node in everyone
    ]
    packages = ", ".join(f"{name} {version}" for name, version in first.versions.items() if version)
    return [
        "",
        *aligned(headings, rows),
        f"versions of node 0: {packages}",
        *_bandwidth_lines(everyone, faults, cluster),
    ]


def _bandwidth_lines(everyone: list[Node], faults: list[str], cluster: Cluster) -> list[str]:
    if any(node.bandwidth is None for node in everyone):
        return ["bandwidth: not measured, because of the faults below" if faults else "bandwidth: not measured"]
    backend = "NCCL" if uses_gpus(cluster) else "gloo on CPU, of which the plan assumes nothing"
    lines = [f"bandwidth in GB/s, slowest rank ({backend})"]
    for kind in everyone[0].bandwidth or {}:
        slowest = min(everyone, key=lambda node: (node.bandwidth or {}).get(kind, 0.0))
        assumed = f", the plan assumes {nodes.assumed(kind, cluster):g}" if uses_gpus(cluster) else ""
        lines.append(f"  {kind:<10} {(slowest.bandwidth or {}).get(kind, 0.0):.2f} on {slowest.name}{assumed}")
    return lines if len(lines) > 1 else ["bandwidth: one rank has nobody to exchange with"]
