"""Measures all-reduce and point-to-point bandwidth between all ranks: `python -m stages.checks.bandwidth <host> <port> <json>`.

One process a rank, started on each node by `stages.checks.cluster`. Prints one line of JSON: the rank's rates in 10^9 bytes a
second.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

TIMEOUT_SECONDS = 60
"""Of a collective: a rank that never comes must not keep the others for long."""
REPEATS = 5


@dataclass(frozen=True, kw_only=True)
class Rank:
    """One rank's place in the world."""

    rank: int
    local_rank: int
    per_node: int
    nodes: int
    on_gpu: bool
    megabytes: int

    @property
    def node(self) -> int:
        return self.rank // self.per_node


def measure(place: Rank, host: str, port: int) -> dict[str, float]:
    """Joins the world and measures. Every rank of every node calls it."""
    device = torch.device("cuda", place.local_rank) if place.on_gpu else torch.device("cpu")
    if place.on_gpu:
        torch.cuda.set_device(device)
    else:
        torch.set_num_threads(1)
    world = place.nodes * place.per_node
    store = dist.PrefixStore("bandwidth", dist.TCPStore(host, port, is_master=False))
    wait = timedelta(seconds=TIMEOUT_SECONDS)
    dist.init_process_group(
        "nccl" if place.on_gpu else "gloo", store=store, rank=place.rank, world_size=world, timeout=wait
    )
    data = torch.ones(place.megabytes * 10**6 // 4, device=device)
    size = data.numel() * 4
    rates = {}
    if world > 1:
        seconds = _seconds(lambda: dist.all_reduce(data), device)
        rates["allreduce"] = 2 * (world - 1) / world * size / seconds / 1e9
    if place.per_node > 1:
        first = place.node * place.per_node
        rates["link"] = size / _shift_seconds(data, place, first, 1, place.per_node) / 1e9
    if place.nodes > 1:
        rates["network"] = size / _shift_seconds(data, place, place.local_rank, place.per_node, place.nodes) / 1e9
    dist.destroy_process_group()
    return rates


def _shift_seconds(data: torch.Tensor, place: Rank, first: int, stride: int, length: int) -> float:
    """Seconds in which every rank of a ring (`first`, `first + stride`, ...) sends `data` to the next and receives as much."""
    at = (place.rank - first) // stride
    following, previous = (first + stride * ((at + step) % length) for step in (1, -1))
    received = torch.empty_like(data)

    def shift() -> None:
        sends = [dist.P2POp(dist.isend, data, following), dist.P2POp(dist.irecv, received, previous)]
        for work in dist.batch_isend_irecv(sends):
            work.wait()

    return _seconds(shift, data.device)


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    """Median of several, after one that opens connections. All ranks start each repeat together."""
    taken = []
    for _ in range(REPEATS + 1):
        dist.barrier()
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        taken.append(time.perf_counter() - start)
    return statistics.median(taken[1:])


def arguments(place: Rank, host: str, port: int) -> list[str]:
    """The command line that measures at this place."""
    return ["-m", "stages.checks.bandwidth", host, str(port), json.dumps(asdict(place))]


if __name__ == "__main__":
    print(json.dumps(measure(Rank(**json.loads(sys.argv[3])), sys.argv[1], int(sys.argv[2]))))
