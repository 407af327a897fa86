"""The command lines that start a stage's ranks: plain Python, torchrun, or DeepSpeed's per-node launcher.

Each node runs `bash run.sh` itself with its own `cluster.node_rank`, so no launcher here needs ssh. torchrun starts
everything that builds the Megatron actor. DeepSpeed's launcher starts the warm-up on GPUs, where it pins each rank to
its device; on CPU it would look for an accelerator and find none, so torchrun starts the warm-up as well.
"""

import base64
import json
import math
import os
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

from pipeline.common.addresses import is_local, parse_url
from pipeline.run import interfaces, machines
from pipeline.run.catalog import Job
from pipeline.run.door import ROOT
from pipeline.settings import Cluster


@dataclass(frozen=True)
class Command:
    """A process to start on one node."""

    argv: list[str]
    env: dict[str, str]
    """Variables to set on top of the present environment."""

    def line(self) -> str:
        """As it would be typed into a shell in the project's folder."""
        argv = ["python" if word == sys.executable else word for word in self.argv]
        env = [f"{name}={shlex.quote(value)}" for name, value in self.env.items()]
        return " ".join([*env, *map(shlex.quote, argv)])


def config_path(job: Job, root: Path, node_rank: int) -> Path:
    """The resolved config file of a job on node `node_rank`."""
    variant = f".{job.variant}" if job.variant else ""
    return (
        root / job.stage.name / (f"config{variant}.yaml" if node_rank == 0 else f"config{variant}.node{node_rank}.yaml")
    )


def command(job: Job, root: Path, node_rank: int) -> Command:
    """The command that starts the job's ranks of one node."""
    cluster = job.settings.cluster
    path = config_path(job, root, node_rank)
    config = str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)
    target = ["-m", f"stages.{job.stage.name}", config]
    gpus = machines.uses_gpus(cluster)
    env = {"OMP_NUM_THREADS": str(machines.threads_per_rank(cluster)), "TOKENIZERS_PARALLELISM": "false"}
    if job.stage.name == "doctor":  # it reports the machine as it is, so nothing is hidden from it
        if not job.on_every_node:
            return Command([sys.executable, *target], {})
        world = {"RANK": str(node_rank), "WORLD_SIZE": str(cluster.nnodes)}
        return Command([sys.executable, *target], world | _network(job))
    if gpus:
        # Megatron overlaps collectives with matrix products in the order of their launch, which needs one queue.
        env["CUDA_DEVICE_MAX_CONNECTIONS"] = "1"
    else:
        env |= {"DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    env |= _network(job)
    if job.launcher == "plain":
        env["OMP_NUM_THREADS"] = str(machines.cores())
        return Command([sys.executable, *target], env)
    if job.launcher == "deepspeed" and gpus:
        return Command(
            [sys.executable, "-m", "deepspeed.launcher.launch", *_deepspeed(cluster, node_rank), *target[1:]], env
        )
    logs = str(Path(config).parent / "logs" / f"node{node_rank}")
    return Command(
        [sys.executable, "-m", "pipeline.run.torchrun", *torchrun_options(cluster, node_rank, logs), *target], env
    )


def _network(job: Job) -> dict[str, str]:
    """Which interface the ranks use: between nodes that of `cluster.interface`; on one node loopback, unless they speak with
    vLLM servers elsewhere. What the user has set stays."""
    cluster, rollout = job.settings.cluster, job.settings.rollout
    far = rollout.mode == "standalone" and not rollout.server_address.startswith(("127.", "localhost:"))
    far = far or (rollout.mode == "serve" and any(not is_local(parse_url(url)) for url in rollout.server_urls))
    if cluster.nnodes > 1 or far:
        names = interfaces.variables(cluster.interface) if cluster.interface else {}
    else:
        names = interfaces.variables("lo0" if sys.platform == "darwin" else "lo") | {"VLLM_HOST_IP": "127.0.0.1"}
    return {name: value for name, value in names.items() if name not in os.environ}


def torchrun_options(cluster: Cluster, node_rank: int, logs: str) -> list[str]:
    """torchrun's options for one node; `logs` is for its files and the output of all ranks but local rank 0."""
    words = [f"--nnodes={cluster.nnodes}", f"--nproc-per-node={cluster.devices_per_node}"]
    if cluster.nnodes == 1:
        words.append("--rdzv-backend=loopback")  # of pipeline.run.torchrun: nothing listens beyond this machine
    else:
        words += [
            f"--node-rank={node_rank}",
            "--rdzv-backend=nodes",  # of pipeline.run.torchrun: a node that was lost may come back
            f"--rdzv-endpoint={cluster.master_addr}:{cluster.master_port}",
            f"--rdzv-conf=timeout={math.ceil(60 * cluster.timeout_minutes)}",
        ]
    words += [
        f"--max-restarts={cluster.max_restarts}",
        f"--log-dir={logs}",
    ]  # else in the temporary directory, for ever
    quiet = range(1, min(cluster.devices_per_node, 10))  # torchrun reads one digit
    if quiet:
        # Local rank 0 keeps the terminal; the others write into files, and the failing one's is shown.
        words.append("--redirects=" + ",".join(f"{local}:3" for local in quiet))
    return words


def _deepspeed(cluster: Cluster, node_rank: int) -> list[str]:
    devices = list(range(cluster.devices_per_node))
    world = {f"node{node}": devices for node in range(cluster.nnodes)}
    return [
        f"--world_info={base64.urlsafe_b64encode(json.dumps(world).encode()).decode()}",
        f"--node_rank={node_rank}",
        f"--master_addr={cluster.master_addr if cluster.nnodes > 1 else '127.0.0.1'}",
        f"--master_port={cluster.master_port if cluster.nnodes > 1 else machines.free_port()}",
        "--no_local_rank",
        "--module",
    ]
