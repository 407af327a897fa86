"""Run by test_cluster.py as two nodes on this machine, with one difference planted at a time; prints what each node found."""

import json
import os
import sys
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from torch.distributed import PrefixStore, TCPStore

from pipeline.common.errors import InputError
from pipeline.run import machines
from pipeline.run.compose import compose
from pipeline.stage import StageRun
from stages.checks import cluster, nodes

cluster.SHARED_SECONDS = 0.3  # nothing is late on a local disk


def planted(name: str, node: nodes.Node) -> nodes.Node:
    """The report of node 1 with one thing changed."""
    gpu = compose(["stage=doctor", "cluster=gpu8"]).cluster
    changes = {
        "revision": {"revision": "0123456789abcdef"},
        "versions": {"versions": node.versions | {"torch": "1.0"}},
        "gpus": {"device_problem": machines.device_problem(gpu)},
    }
    return replace(node, **changes.get(name, {}))


def main() -> None:
    rank, folder, port, second_port = int(os.environ["RANK"]), Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    words = ["stage=doctor", "check=cluster", "cluster.nnodes=2", f"cluster.node_rank={rank}", f"runs_dir={folder}"]
    settings = compose([*words, "cluster.devices_per_node=1", f"cluster.master_port={port}"])
    store = TCPStore("127.0.0.1", int(port), is_master=rank == 0, wait_for_workers=False, timeout=timedelta(seconds=60))
    (folder / "node1").mkdir(exist_ok=True)
    found = {}
    for name in ("nothing", "revision", "versions", "gpus", "folder", "clock", "address"):
        odd = rank == 1
        meeting = cluster.Meeting(PrefixStore(name, store), rank, 2)
        cluster.own_address = lambda _, name=name, odd=odd: "host.invalid" if odd and name == "address" else "127.0.0.1"
        node = nodes.look(settings, folder)
        everyone = cluster.exchange(
            meeting,
            planted(name, node) if odd else node,
            folder / "node1" if odd and name == "folder" else folder,
            settings.cluster,
            clock=(lambda: time.time() + 90) if odd and name == "clock" else time.time,
        )
        found[name] = nodes.problems(everyone, settings)
    meeting.heard("report")
    try:  # the whole check, of nodes that have no GPUs
        cluster.main(StageRun(compose([*words, "cluster=gpu1", f"cluster.master_port={second_port}"]), folder, rank, 2))
    except InputError as error:
        found["main"] = [str(error)]
    print(json.dumps(found))
    if rank == 1:
        store.set("done", "")
    else:  # it holds the store
        store.wait(["done"])


main()
