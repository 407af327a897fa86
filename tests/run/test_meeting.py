"""Agents of several nodes meet: at each start of the ranks, after a loss, and with whoever does not come named. The agents are
threads of this process; real hosts are in test_hosts.py."""

import json
import threading
import time
from datetime import timedelta

import pytest
from ranks import free_port
from torch.distributed import TCPStore
from torch.distributed.elastic.rendezvous import RendezvousParameters

from pipeline.run import meeting
from pipeline.run.meeting import NodesRendezvous, NotMetError, PeerEndedError, Watch
from pipeline.stage import OUTCOME_FOLDER


@pytest.fixture
def agent(monkeypatch):
    """Makes the rendezvous of a node; all of a test have one endpoint."""
    monkeypatch.setattr(meeting, "LOOK_SECONDS", 0.05)
    endpoint, made = f"127.0.0.1:{free_port()}", []

    def make(node, count=2, timeout=60, restarts=True):
        words = RendezvousParameters("nodes", endpoint, "none", count, count, timeout=str(timeout))
        made.append(NodesRendezvous(words, node, restarts))
        return made[-1]

    yield make
    for agent in made:
        if agent.watch is not None:  # it ends before the stores that it asks close
            agent.watch.over.set()
            for thread in agent.watch.threads:
                thread.join(10)


def meet(*agents):
    """What each agent gets, or its error."""
    results = {}

    def one(agent):
        try:
            results[agent.node] = agent.next_rendezvous()
        except Exception as error:
            results[agent.node] = error

    threads = [threading.Thread(target=one, args=(agent,)) for agent in agents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [results[agent.node] for agent in agents]


def until(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def port_of(found):
    return found.bootstrap_store_info.master_port


def test_every_start_has_a_store_of_its_own(agent):
    agents = [agent(0, 3), agent(1, 3), agent(2, 3)]
    ports = set()
    for start in range(2):
        found = meet(*reversed(agents))
        assert [each.rank for each in found] == [2, 1, 0]
        (port,) = {port_of(each) for each in found}
        ports.add(port)
        assert not found[0].store.check(["written"])  # nothing of the start before
        found[2].store.set("written", str(start))
        assert found[0].store.get("written") == str(start).encode()
        assert [each.num_nodes_waiting() for each in agents] == [0, 0, 0]
    assert len(ports) == 2


@pytest.mark.parametrize("restarts", [True, False])
def test_a_node_that_is_started_again_is_noticed_and_met(agent, restarts):
    first, lost = agent(0, restarts=restarts), agent(1, restarts=restarts)
    meet(first, lost)
    back = agent(1, timeout=60 if restarts else 2)
    found = []
    waiting = threading.Thread(target=lambda: found.extend(meet(back)))
    waiting.start()
    if restarts:
        until(lambda: first.num_nodes_waiting() == 1)
        found += meet(first)
        waiting.join()
        assert port_of(found[0]) == port_of(found[1])
    else:
        waiting.join()
        assert isinstance(found[0], NotMetError)
        assert "node 0 goes on without this one" in str(found[0])
        assert first.num_nodes_waiting() == 0


def test_node_0_that_is_started_again_is_noticed_and_met(agent):
    lost, other = agent(0), agent(1)
    meet(lost, other)
    assert other.num_nodes_waiting() == 0
    lost.meeting = lost.store = None  # its stores close
    until(lambda: other.num_nodes_waiting() == 1)
    one, two = meet(agent(0), other)
    assert port_of(one) == port_of(two)
    assert other.num_nodes_waiting() == 0


def test_who_does_not_come_is_named_on_every_node_that_did(agent):
    errors = meet(agent(0, 3, timeout=6), agent(2, 3, timeout=5))
    for error in errors:
        assert isinstance(error, NotMetError)
        assert "node 1 did not come" in str(error)


def test_nobody_waits_for_a_node_that_has_ended_for_good(agent, tmp_path, monkeypatch):
    monkeypatch.setenv(OUTCOME_FOLDER, str(tmp_path))
    (tmp_path / "agent1.json").write_text(json.dumps(["of an earlier run"]))
    waits = agent(0, timeout=60)
    thread = threading.Timer(0.3, (tmp_path / "agent1.json").write_text, args=("[]",))
    thread.start()
    (error,) = meet(waits)
    thread.join()
    assert isinstance(error, PeerEndedError)


def test_node_0_is_noticed_over_a_new_connection_where_the_old_one_does_not_answer(agent):
    """As after a loss without a reset: the question on the old connection is never answered."""
    lost, other = agent(0), agent(1)
    meet(lost, other)

    class Silent:
        """The connection whose other end is gone; the kernel repeats what was asked."""

        def check(self, _):
            time.sleep(30)

    watch = Watch(other.host, other.port, Silent(), b"the agent that is gone")
    until(lambda: watch.lost)
    watch.over.set()


def client(agent):
    """A connection to node 0 as another node's agent has one."""
    return TCPStore(agent.host, agent.port, is_master=False, timeout=timedelta(seconds=30), wait_for_workers=False)


def half_met(*agents):
    """Has the agents meet in a thread, and node 1 ask for its answer and go no further.

    Returns the thread, the list that gets what was found, and the port that node 1 was told.
    """
    found = []
    waiting = threading.Thread(target=lambda: found.extend(meet(*agents)))
    waiting.start()
    until(lambda: agents[0].meeting is not None)
    asks = client(agents[0])
    asks.set("came1", "a ticket")
    return waiting, found, int(asks.get("go-a ticket"))


def test_a_node_that_asks_again_after_its_answer_is_met_at_another_store(agent):
    """Its connection failed between the answer and the store. Node 0 must not go on to ranks that nobody joins."""
    first, other = agent(0), agent(1)
    waiting, found, port = half_met(first)
    (one,) = meet(other)
    waiting.join()
    assert port_of(one) == port_of(found[0]) != port
    assert first.num_nodes_waiting() == 0


def test_a_third_node_that_had_met_already_comes_again_with_the_one_that_asks_again(agent):
    first, other, third = agent(0, 3), agent(1, 3), agent(2, 3)
    waiting, found, port = half_met(first, third)
    found += meet(other)
    waiting.join()
    assert len({port_of(each) for each in found} - {port}) == 1


def test_a_node_that_cannot_reach_the_new_store_is_named(agent):
    first = agent(0, timeout=2)
    waiting, found, port = half_met(first)
    waiting.join()
    assert isinstance(found[0], NotMetError)
    assert f"node 1 came, but did not reach port {port} of node 0" in str(found[0])


def test_what_an_earlier_meeting_hears_late_changes_nothing(agent):
    first, other = agent(0), agent(1)
    meet(first, other)
    before = other.watch
    meet(first, other)
    assert before.over.is_set()
    before.lost, before.asked = True, 0.0
    assert other.num_nodes_waiting() == 0
    assert not other.watch.lost
