"""Two hosts with a rank each, made of Linux namespaces: what listens, a cut link, nodes that never come.

The ranks are those of worker.py. RL on two hosts is in tests/stages/test_two_hosts.py. Skipped where namespaces cannot be made.
"""

import re
import sys
import time
from pathlib import Path

import pytest
from cli import preset
from hosts import Hosts

HERE = Path(__file__).resolve().parent
LIMIT_S = 12


@pytest.fixture(scope="module")
def hosts(tmp_path_factory):
    with Hosts(tmp_path_factory.mktemp("hosts")) as made:
        yield made


def start(hosts, folder, node, limit_s, port=29500):
    """Starts the supervisor of a node on the host of the same number."""
    folder.mkdir(exist_ok=True)
    words = [
        "cluster.nnodes=2",
        "cluster.devices_per_node=1",
        "cluster.master_addr=node0",
        f"cluster.master_port={port}",
    ]
    words += [f"cluster.node_rank={node}", f"cluster.timeout_minutes={limit_s / 60}"]
    command = [sys.executable, str(HERE / "supervisor.py"), str(folder), "1", f"model={preset(folder)}", *words]
    return hosts.start(node, command, ETR_FOLDER=str(folder), TEST_MODE="steps")


def test_a_cut_link_ends_both_nodes_and_nothing_listened_beyond_their_addresses(tmp_path, hosts):
    nodes = [start(hosts, tmp_path, node, LIMIT_S) for node in (0, 1)]
    deadline = time.monotonic() + 150
    while len(list(tmp_path.glob("started.*"))) < 2:
        assert time.monotonic() < deadline, "the ranks did not start"
        assert all(node.poll() is None for node in nodes), [node.communicate() for node in nodes]
        time.sleep(0.05)
    for host in hosts.hosts:
        listening = host.listening()
        assert {address for address, _ in listening} == {host.address}
        assert ((host.address, 29500) in listening) == (host.number == 0)
    hosts.cut(1)
    try:
        for node, process in enumerate(nodes):
            out, err = process.communicate(timeout=150)
            assert process.returncode == 1, err
            other = 1 - node
            first, second, *rest = err.strip().splitlines()
            assert re.fullmatch(
                rf"Rank {other} on node{other} \(10\.77\.0\.{other + 1}\): no answer over the network, last in "
                rf"(update of )?step \d+\. .* The link between node{node} and node{other} is cut\.",
                first,
            ), err
            assert "no progress for" in second, err
            assert len(rest) < 30
            assert "Traceback" not in out + err
    finally:
        hosts.mend(1)
    hosts.assert_empty()


def test_a_node_that_never_comes_is_named_by_the_one_that_did(tmp_path, hosts):
    """Two jobs at once: one lacks node 1, the other node 0."""
    alone = [start(hosts, tmp_path / str(node), node, 4, port=29600 + node) for node in (0, 1)]
    for node, process in enumerate(alone):
        _, err = process.communicate(timeout=150)
        assert process.returncode == 1, err
        assert f"The 2 nodes did not meet at node0:{29600 + node} in time (cluster.timeout_minutes)" in err
        assert ("node 1 did not come" if node == 0 else "node 0 did not answer") in err
        assert f"This is node {node}, node{node}." in err
        assert len(err.strip().splitlines()) == 1
    hosts.assert_empty()
