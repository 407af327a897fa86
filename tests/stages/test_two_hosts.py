"""RL on two hosts: a cut link, a lost host, other hosts and layouts. Real namespaces, one rank a host, one shared folder.

Skipped where namespaces cannot be made. An undisturbed run of the same two hosts is the reference, and must itself equal one
of two ranks on one host.
"""

import re
import sys

import pytest
from hosts import Hosts
from house import rows, steps_done, until
from ranks import free_port
from trials import differences

STEPS = 6
SMALL = [f"rl.steps={STEPS}", "rl.save_every=1", "rl.keep_checkpoints=2", "cluster.threads_per_rank=1"]
LIMIT_S = 60


class Pair:
    """One run on two hosts."""

    def __init__(self, house, hosts, name, *words):
        self.house, self.hosts, self.name = house, hosts, name
        self.root = house.root(name)
        self.words = ["cluster.nnodes=2", "cluster.devices_per_node=1", "cluster.master_addr=node0", *SMALL]
        self.words += [f"cluster.timeout_minutes={LIMIT_S / 60}", f"cluster.master_port={free_port()}", *words]
        if not self.root.exists():
            house.copy(name, "preprocess", "convert")

    @property
    def metrics(self):
        return self.root / "metrics.jsonl"

    def start(self, node, *words):
        line = self.house.words("rl", *self.words, f"cluster.node_rank={node}", *words, name=self.name)
        command = [sys.executable, "-m", "pipeline.run.cli", *line]
        return self.hosts.start(node, command, cwd=self.house.folder, ETR_FOLDER=str(self.house.folder))

    def start_both(self, *words):
        return [self.start(node, *words) for node in (0, 1)]


def end_of(process, seconds=240):
    """Exit code, stdout and stderr."""
    out, err = process.communicate(timeout=seconds)
    return process.returncode, out, err


def finish(processes):
    for process in processes:
        code, out, err = end_of(process)
        assert code == 0, out + err


@pytest.fixture
def hosts(tmp_path):
    with Hosts(tmp_path / "hosts") as made:
        yield made


@pytest.fixture(scope="module")
def straight(house, tmp_path_factory):
    """The folder of the undisturbed run."""
    with Hosts(tmp_path_factory.mktemp("hosts")) as made:
        pair = Pair(house, made, "two-straight")
        nodes = pair.start_both()
        until(lambda: steps_done(pair.metrics) >= 2, nodes[0])
        for host in made.hosts:
            assert {address for address, _ in host.listening()} == {host.address}
        finish(nodes)
    return pair.root


def test_names_that_mean_this_machine_alone_are_refused_on_both_nodes_at_once(house, tmp_path):
    with Hosts(tmp_path / "hosts", debian=True) as made:
        for node, process in enumerate(Pair(house, made, "two-names").start_both()):
            code, out, err = end_of(process)
            assert code == 2, out + err
            assert f"The host name node{node} means 127.0.1.1, this machine alone" in err
            assert "cluster.interface=eth0 (here: eth0 (10.77.0." in err


@pytest.mark.long
def test_such_names_work_with_the_interface_that_the_error_names(house, tmp_path):
    with Hosts(tmp_path / "hosts", debian=True) as made:
        pair = Pair(house, made, "two-interface", "cluster.interface=eth0")
        finish(pair.start_both("rl.steps=2"))
    assert steps_done(pair.metrics) == 2


@pytest.mark.long
def test_two_hosts_make_the_same_steps_as_one(house, straight):
    """The way of docs/cluster.md: the same command on each node, with its number."""
    alone = house.copy("two-alone", "preprocess", "convert")
    result = house.run("rl", *SMALL, name="two-alone")
    assert result.code == 0, result.err
    assert rows(straight / "metrics.jsonl") == rows(alone / "metrics.jsonl")
    assert rows(straight / "samples.jsonl") == rows(alone / "samples.jsonl")


@pytest.mark.long
def test_a_cut_link_ends_both_nodes_and_each_names_the_other(house, hosts):
    pair = Pair(house, hosts, "two-cut")
    nodes = pair.start_both()
    until(lambda: steps_done(pair.metrics) >= 2, nodes[0])
    hosts.cut(1)
    for node, process in enumerate(nodes):
        code, _, err = end_of(process)
        assert code == 1, err
        assert re.search(
            rf"^Rank {1 - node} on node{1 - node} .*: no answer over the network, last in \w+ of step \d", err
        )
        assert len(err.splitlines()) < 40
        assert "Traceback" not in err
    hosts.assert_empty()


@pytest.mark.long
@pytest.mark.parametrize("lost", [0, 1])
def test_a_host_that_is_lost_and_comes_back_continues_the_run_by_itself(house, hosts, straight, lost):
    pair = Pair(house, hosts, f"two-back-{lost}", "cluster.max_restarts=2")
    nodes = pair.start_both()
    until(lambda: steps_done(pair.metrics) >= 2, nodes[0])
    hosts.lose(lost)
    hosts.bring_back(lost)
    nodes[lost] = pair.start(lost)
    finish(nodes)
    assert differences(pair.root, straight, "rl") == []


@pytest.mark.long
def test_without_restarts_a_lost_host_ends_the_run_and_both_commands_continue_it(house, hosts, straight):
    pair = Pair(house, hosts, "two-lost")
    nodes = pair.start_both()
    until(lambda: steps_done(pair.metrics) >= 2, nodes[0])
    hosts.lose(1)
    code, _, err = end_of(nodes[0])
    assert code == 1
    assert re.match(r"Rank 1 on node1 \(process \d+\): no sign of life for \d+ s, last in \w+ of step \d", err), err
    assert "Its machine or the link to it is lost." in err.splitlines()[0]
    hosts.assert_empty()
    hosts.bring_back(1)
    finish(pair.start_both())
    assert differences(pair.root, straight, "rl") == []
