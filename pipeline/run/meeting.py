"""How the agents of several nodes meet, at each start of the ranks. Loads torch, so torchrun's process alone imports it."""

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

from torch.distributed import DistError, PrefixStore, TCPStore
from torch.distributed.elastic.rendezvous import (
    RendezvousHandler,
    RendezvousInfo,
    RendezvousParameters,
    RendezvousStoreInfo,
)

from pipeline.common.addresses import listener
from pipeline.stage import OUTCOME_FOLDER

POLL_SECONDS = 0.1
CONNECT_SECONDS = 5.0
"""Longest single attempt to connect to node 0."""
LOOK_SECONDS = 2.0
"""How often the other nodes ask whether node 0 is still the one that they met."""


EPOCH = "epoch"
"""Key of what is new with each agent of node 0."""
MISSING = "missing"
"""Key of the numbers of the nodes for which node 0 waits."""
BEGIN, AGAIN = "begin", "again"
"""What node 0 says when all nodes have reached the new store, or when one of them asks again."""
NOT_INVITED = "node 0 goes on without this one, because its ranks run and cluster.max_restarts=0"


class NotMetError(Exception):
    """Not all nodes came in time. The message says which, and what to do."""


class PeerEndedError(Exception):
    """Another node has ended for good, so nobody needs to wait for it."""


class NodesRendezvous(RendezvousHandler):
    """Lets the agents of several nodes meet at node 0's port, as often as the ranks are started.

    torchrun's static rendezvous (torch 2.13) meets once: a node that was lost and is started again counts its restarts from
    0 while the others count on, finds the addresses of dead ranks in the store, and is noticed by nobody. Here each
    meeting has a store of its own at a free port of node 0, so that no number must agree. A node that comes back while
    the others still wait for its ranks makes them start again at once, if `restarts`. Stores listen at the address that
    node 0's name has there, not on all interfaces.
    """

    backend = "nodes"

    def __init__(
        self,
        parameters: RendezvousParameters,
        node: int,
        restarts: bool,
        before_start: Callable[[], None] = lambda: None,
    ):
        """`before_start` is called each time before the ranks start."""
        self.before_start = before_start
        host, _, port = parameters.endpoint.rpartition(":")
        self.host, self.port = host, int(port)
        self.node, self.count = node, parameters.max_nodes
        self.patience = float(parameters.config["timeout"])
        self.run_id, self.restarts = parameters.run_id, restarts
        self.meeting: TCPStore | None = None
        self.store: TCPStore | None = None
        self.answered: dict[int, str] = {}
        """Node 0: the last ticket of each node that it has answered."""
        self.watch: Watch | None = None
        """Other nodes: on the node 0 of the newest meeting."""
        self.endings = dict(_endings(self.node))

    def get_backend(self) -> str:
        return self.backend

    @property
    def use_agent_store(self) -> bool:
        return True

    def next_rendezvous(self) -> RendezvousInfo:
        """Waits for all nodes. Raises NotMetError after `timeout` seconds, and PeerEndedError."""
        if self.node == 0:
            host, port = self._invite()
        else:
            host, port = self.host, self._come()
        assert self.store is not None
        self.before_start()
        store = PrefixStore(self.run_id, self.store)
        return RendezvousInfo(store, self.node, self.count, RendezvousStoreInfo(host, port))

    def _invite(self) -> tuple[str, int]:
        """Node 0: waits for the others, then tells each the port of a new store. Returns its address and port here.

        It goes on only when every node has reached that store. A node whose connection fails in between asks again, with
        another ticket; all then meet at another store.
        """
        if self.meeting is None:
            self.meeting, _, _ = serve(self.host, self.port, self.patience)
            self.meeting.set(EPOCH, uuid.uuid4().hex)
        deadline = time.monotonic() + self.patience
        said = None
        while True:
            tickets = self._tickets()
            missing = [node for node in range(1, self.count) if node not in tickets]
            if missing != said:
                self.meeting.set(MISSING, json.dumps(missing))
                said = missing
            if not missing and (place := self._meet(tickets, deadline)) is not None:
                return place
            self._wait(deadline, _nodes(missing, "did not come"))

    def _tickets(self) -> dict[int, str]:
        """Node 0: the nodes that wait for an answer, with their tickets."""
        assert self.meeting is not None
        came = [node for node in range(1, self.count) if self.meeting.check([_came(node)])]
        tickets = {node: self.meeting.get(_came(node)).decode() for node in came}
        return {node: ticket for node, ticket in tickets.items() if self.answered.get(node) != ticket}

    def _meet(self, tickets: dict[int, str], deadline: float) -> tuple[str, int] | None:
        """Node 0: waits for the owners of the tickets at a new store. None if one of them asks again."""
        assert self.meeting is not None
        self.store, host, port = serve(self.host, 0, self.patience)
        self.answered.update(tickets)
        for ticket in tickets.values():
            self.meeting.set(_go(ticket), str(port))
        while away := [node for node, ticket in tickets.items() if not self.meeting.check([_met(ticket)])]:
            if self._tickets():
                for ticket in tickets.values():
                    self.meeting.set(_said(ticket), AGAIN)
                return None
            self._wait(deadline, f"{_nodes(away, 'came, but did not reach')} port {port} of node 0")
        for ticket in tickets.values():
            self.meeting.set(_said(ticket), BEGIN)
        return host, port

    def _wait(self, deadline: float, what: str) -> None:
        """A moment; raises NotMetError with `what` after the deadline."""
        self._check_peers()
        if time.monotonic() > deadline:
            raise NotMetError(self._text(what))
        time.sleep(POLL_SECONDS)

    def _come(self) -> int:
        """Another node: reports to node 0 and waits until all have. Returns the port of the new store.

        A thread asks, because a question that a cut link swallows has no time limit.
        """
        attempt = _Attempt(self)
        deadline = time.monotonic() + self.patience
        while attempt.thread.is_alive():
            self._check_peers()
            if time.monotonic() > deadline:
                attempt.over.set()
                raise NotMetError(self._text(attempt.state))
            attempt.thread.join(POLL_SECONDS)
        if attempt.error is not None:
            raise attempt.error
        assert attempt.meeting is not None
        self.meeting, self.store = attempt.meeting, attempt.store
        if self.watch is not None:
            self.watch.over.set()
        self.watch = Watch(self.host, self.port, self.meeting, attempt.epoch)
        return attempt.port

    def num_nodes_waiting(self) -> int:
        """How many nodes came back while the ranks run; the agent then starts its ranks again, uncounted."""
        if not self.restarts or self.meeting is None:
            return 0
        if self.node > 0:
            return int(self.watch is not None and self.watch.lost)
        return len(self._tickets())

    def _check_peers(self) -> None:
        for name, moment in _endings(self.node):
            if self.endings.get(name) != moment:
                raise PeerEndedError(name)

    def _text(self, what: str) -> str:
        return (
            f"The {self.count} nodes did not meet at {self.host}:{self.port} in time (cluster.timeout_minutes): {what}."
            f" Start the same command on every node, with cluster.node_rank=0 to {self.count - 1}, and check that a"
            f" firewall does not close that port. This is node {self.node}, {socket.gethostname()}."
        )

    def is_closed(self) -> bool:
        return False

    def set_closed(self) -> None:
        pass

    def get_run_id(self) -> str:
        return self.run_id

    def shutdown(self) -> bool:
        return True


class Watch:
    """Two threads that ask whether node 0's agent is still the one of a meeting."""

    def __init__(self, host: str, port: int, meeting: TCPStore, epoch: bytes):
        self.host, self.port, self.meeting, self.epoch = host, port, meeting, epoch
        self.lost = False
        """Whether that agent is gone, or another one has taken its place."""
        self.asked: float | None = None
        """Since when it owes an answer."""
        self.over = threading.Event()
        self.threads = [threading.Thread(target=look, daemon=True) for look in (self._look, self._look_anew)]
        for thread in self.threads:
            thread.start()

    def _look(self) -> None:
        """Asks node 0 again and again: its machine resets the connection once another agent has taken its place."""
        while not self.over.wait(LOOK_SECONDS):
            try:
                self.asked = time.monotonic()
                self.meeting.check([EPOCH])
                self.asked = None
            except DistError:
                self.lost = True
                return

    def _look_anew(self) -> None:
        """While node 0 does not answer, asks over new connections: on the old one the kernel waits up to two minutes between
        two repetitions, and would notice an agent that came back that much later."""
        while not self.over.wait(LOOK_SECONDS) and not self.lost:
            asked = self.asked
            if asked is not None and time.monotonic() - asked > LOOK_SECONDS:
                with suppress(DistError):
                    self.lost = self.lost or _connect(self.host, self.port, CONNECT_SECONDS).get(EPOCH) != self.epoch


class _Attempt:
    """A node's attempt to meet the others, in a thread."""

    def __init__(self, asked: NodesRendezvous):
        self.asked = asked
        self.state = "node 0 did not answer"
        self.error: Exception | None = None
        self.meeting: TCPStore | None = None
        self.store: TCPStore | None = None
        self.port, self.epoch = 0, b""
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        while not self.over.is_set():
            try:
                self._ask()
                return
            except DistError:  # node 0 has not started yet, or is gone
                self.state = "node 0 did not answer"
            except Exception as error:
                self.error = error
                return
            self.over.wait(POLL_SECONDS)

    def _ask(self) -> None:
        asked, ticket = self.asked, uuid.uuid4().hex
        meeting = _connect(asked.host, asked.port, CONNECT_SECONDS)
        meeting.set_timeout(timedelta(seconds=asked.patience))  # a busy node 0 answers late, and is no other for it
        meeting.set(_came(asked.node), ticket)  # over that of an agent of this node that died
        while not meeting.check([_go(ticket)]):
            missing = json.loads(meeting.get(MISSING)) if meeting.check([MISSING]) else []
            self.state = _nodes(missing, "did not come") if missing else NOT_INVITED
            if self.over.wait(POLL_SECONDS):
                return
        port = int(meeting.get(_go(ticket)))
        self.state = f"this node could not reach port {port} of node 0"
        store = _connect(asked.host, port, asked.patience)
        meeting.set(_met(ticket), "")
        while not meeting.check([_said(ticket)]):
            self.state = "another node did not reach node 0 again"
            if self.over.wait(POLL_SECONDS):
                return
        if meeting.get(_said(ticket)).decode() == AGAIN:
            raise DistError("node 0 meets all nodes again")
        self.port, self.epoch = port, meeting.get(EPOCH)
        self.meeting, self.store = meeting, store


def serve(host: str, port: int, seconds: float) -> tuple[TCPStore, str, int]:
    """Opens a store at this machine's address of the name `host`, and at no other where that can be known (`listener`).

    Port 0: a free one. `seconds` is the store's time limit. Returns it with address and port for processes of this node.
    """
    opened = listener(host, port)
    host, port = opened.getsockname()[:2]
    host = "127.0.0.1" if host in ("0.0.0.0", "::") else host
    timeout = timedelta(seconds=seconds)
    store = TCPStore(
        host, port, is_master=True, timeout=timeout, wait_for_workers=False, master_listen_fd=opened.detach()
    )
    return store, host, port


def _connect(host: str, port: int, seconds: float) -> TCPStore:
    timeout = timedelta(seconds=seconds)
    return TCPStore(host, port, is_master=False, timeout=timeout, wait_for_workers=False)


def _came(node: int) -> str:
    """Key of the ticket of a node that waits: new each time, so that what a dead agent left invites nobody."""
    return f"came{node}"


def _go(ticket: str) -> str:
    """Key of the port at which the owner of a ticket meets the others."""
    return f"go-{ticket}"


def _met(ticket: str) -> str:
    """Key that the owner of a ticket sets when it has reached that port."""
    return f"met-{ticket}"


def _said(ticket: str) -> str:
    """Key of BEGIN or AGAIN for the owner of a ticket."""
    return f"said-{ticket}"


def _nodes(numbers: list[int], verb: str) -> str:
    return f"node{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))} {verb}"


def _endings(node: int) -> Iterator[tuple[str, int]]:
    """The other nodes' files that say that their agent has ended, with times in ns. A node deletes its own as it starts."""
    folder = os.environ.get(OUTCOME_FOLDER)
    for path in Path(folder).glob("agent*.json") if folder else ():
        if path.name != f"agent{node}.json":
            try:
                yield path.name, path.stat().st_mtime_ns
            except OSError:
                continue
