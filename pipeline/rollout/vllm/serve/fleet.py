"""Several servers: which are there, which weights they hold, and who gets the next request."""

import queue
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from pipeline.common.errors import InputError
from pipeline.rollout.interface import Sampling
from pipeline.rollout.vllm.loading import Piece
from pipeline.rollout.vllm.serve.api import Api, Facts, Sampled, Wanted, misfits
from pipeline.rollout.vllm.serve.http import Http, LostError, ServerError
from pipeline.rollout.vllm.serve.sending import Layout, Sender, open_sender, spread

T = TypeVar("T")
LOOK_SECONDS = 1.0
"""How often a lost server is asked whether it is there again, while somebody waits for it."""
NOTICE_SECONDS = 60.0
"""How often a waiting trainer says which servers it waits for."""
GRACE_SECONDS = 60.0
"""How long the start waits for the other servers after the first has answered."""


@dataclass(frozen=True)
class Request:
    """One response to sample, or the next part of it."""

    group: int
    sample: int
    token_ids: list[int]
    seed: int
    most: int
    """Most new tokens."""

    @property
    def cost(self) -> int:
        return len(self.token_ids) + self.most


class Server:
    """One server, as the trainer knows it."""

    def __init__(self, url: str, seconds: float):
        self.url = url
        self.api = Api(Http(url, seconds))
        self.facts: Facts | None = None
        self.sender: Sender | None = None
        self.label: str | None = None
        """Name of the weights that it got last; None: it is lost, or new."""
        self.trouble = "it has not answered yet"
        self.is_told = False
        """Its loss has been said."""
        self.load = 0
        """Tokens of prompts and responses under way."""
        self.requests = 0

    def lose(self, why: object) -> None:
        self.label, self.trouble = None, str(why)
        if self.sender is not None:
            self.sender.close()
        self.sender = None


class Fleet:
    """The servers of a run, commanded from one process."""

    def __init__(self, urls: list[str], wanted: Wanted, most: int, seconds: float, patience: float):
        """
        Args:
            most: requests that one server has at once.
            seconds: the longest wait for one response.
            patience: seconds to wait for a server when none is left.
        """
        self.servers = [Server(url, seconds) for url in urls]
        self.wanted, self.most, self.patience = wanted, most, patience
        self.label: str | None = None
        """Name of the newest weights."""
        self.met = False
        self.failures: Counter[int] = Counter()
        """By `id` of a request that is not done: how often a server failed with it."""

    @property
    def ready(self) -> list[Server]:
        """Those that hold the newest weights."""
        return [server for server in self.servers if server.label is not None and server.label == self.label]

    # Weights ---------------------------------------------------------------------------------------------------------

    def gather(self) -> None:
        """Asks lost and new servers whether they are there, and waits until at least one is.

        Raises:
            InputError: none answered within `patience`.
            ServerError: one lacks what the run needs.
        """
        begin, first = time.monotonic(), None
        noticed = begin
        while True:
            away = [server for server in self.servers if server.sender is None]
            answers = _each(away, lambda server: server.api.is_up())
            up = [server for server, answer in zip(away, answers, strict=True) if answer]
            now = time.monotonic()
            here = len(up) + len(self.servers) - len(away)
            if here and first is None:
                first = now
            if here == len(self.servers) or (first is not None and (self.met or now - first > GRACE_SECONDS)):
                break
            if first is None and now - begin > self.patience:
                raise InputError(self.nobody())
            if now - noticed > NOTICE_SECONDS:
                noticed = now
                missing = [server.url for server in away if server not in up]
                print(f"waiting for the vLLM servers {', '.join(missing)} (rollout.server_urls)", flush=True)
            time.sleep(LOOK_SECONDS)
        self.met = True
        for server in away:
            if server not in up and not server.is_told:
                self._lost(server, server.trouble)
        for server in up:
            self._meet(server)

    def reasons(self) -> str:
        return "; ".join(f"{server.url}: {server.trouble}" for server in self.servers)

    def nobody(self) -> str:
        return (
            f"no vLLM server of rollout.server_urls answered within {self.patience / 60:g} minutes ({self.reasons()}). Start "
            "them (docs/rollout.md), or correct the addresses"
        )

    def _meet(self, server: Server) -> None:
        """Checks what the server was started with. A server that comes back may have been started differently."""
        try:
            facts = server.api.facts()
        except LostError as error:
            self._lost(server, error)
            return
        if wrong := misfits(facts, self.wanted):
            raise ServerError(
                f"the vLLM server {server.url} (version {facts.version}) does not fit the run: start it with {'; '.join(wrong)}"
            )
        server.facts = facts

    @property
    def needs_layout(self) -> bool:
        """Whether a server wants to know all tensors before the first is sent."""
        return any(server.facts is not None and server.facts.backend == "nccl" for server in self.servers)

    def send(self, pieces: Iterable[Piece], label: str, layout: Layout) -> None:
        """Sends the weights to every server that is there, and names them `label`. Walks through `pieces` to the end, because
        that may be a collective. A server that fails is lost; `ready` says which are not."""
        self.label = label

        def prepare(server: Server) -> None:
            assert server.facts is not None
            if server.sender is None:
                server.sender = open_sender(server.api, server.facts, layout)
            server.api.pause()

        there = [server for server in self.servers if server.facts is not None]
        opened = self._each_or_lost(there, prepare)
        errors = spread(pieces, [_taker(server, label) for server in opened])
        sent = []
        for server, error in zip(opened, errors, strict=True):
            if error is None:
                sent.append(server)
            else:
                self._lost(server, error)
        for server in self._each_or_lost(sent, lambda server: server.api.resume()):
            self._has(server)

    def _each_or_lost(self, servers: list[Server], call: Callable[[Server], None]) -> list[Server]:
        """Calls for each server at once; returns those that are not lost by it."""

        def attempt(server: Server) -> Exception | None:
            try:
                call(server)
            except (LostError, OSError) as error:
                return error
            return None

        kept = []
        for server, error in zip(servers, _each(servers, attempt), strict=True):
            if error is None:
                kept.append(server)
            else:
                self._lost(server, error)
        return kept

    def _lost(self, server: Server, error: object) -> None:
        """Says it once, until the server is back."""
        if not server.is_told:
            print(
                f"WARNING: the vLLM server {server.url} is lost: {error}. The run takes it in again when it answers",
                flush=True,
            )
        server.is_told = True
        server.lose(error)
        server.facts = None

    def _has(self, server: Server) -> None:
        """The server holds the newest weights."""
        if server.is_told:
            print(f"the vLLM server {server.url} is there again", flush=True)
        server.label, server.trouble, server.is_told = self.label, "", False

    def revive(self) -> bool:
        """Takes in lost servers that still hold the newest weights: they were not ended, only out of reach. Returns whether
        one was."""

        def label_of(server: Server) -> str | None:
            try:
                return server.api.label()
            except (LostError, ServerError):
                return None

        away = [server for server in self.servers if server.label != self.label]
        back = [s for s, label in zip(away, _each(away, label_of), strict=True) if label == self.label]
        for server in back:
            self._has(server)
        return bool(back)

    def wait(self, may_send: bool) -> bool:
        """Waits until a server is there. Returns whether one holds the newest weights; if not, they must be sent.

        Args:
            may_send: the newest weights still exist, so that a new server can get them.

        Raises ServerError if none came within `patience`.
        """
        print(
            f"WARNING: no vLLM server is left; this run waits up to {self.patience / 60:g} minutes for one", flush=True
        )
        end = time.monotonic() + self.patience
        while time.monotonic() < end:
            if self.revive():
                return True
            if may_send and any(_each(self.servers, lambda server: server.api.is_up())):
                return False
            time.sleep(LOOK_SECONDS)
        gone = (
            "" if may_send else ". The weights of the batch that was sampled ahead are gone: a new server cannot help"
        )
        raise ServerError(f"{self.nobody()}{gone}; then this stage, which continues from its last checkpoint")

    # Requests --------------------------------------------------------------------------------------------------------

    def run(
        self, requests: list[Request], sampling: Sampling, take: Callable[[Request, Sampled], None]
    ) -> list[Request]:
        """Has the servers sample, each request on the one with the fewest tokens under way. Requests of a lost server go to the
        others. `take` is called in this thread.

        Returns the requests for which no server is left. Raises ServerError if a server refuses one, or if one fails on server
        after server.
        """
        round_ = _Round(self, requests, sampling)
        try:
            left = round_.run(take)
        finally:
            round_.end()
        if not left:
            self.failures.clear()
        return left

    def score(self, sequences: list[list[int]]) -> list[list[list[float]]]:
        """For each server that holds the newest weights: the log-probs (nats, raw policy) of every token except the first. A
        server that fails is lost, and left out."""
        rows: dict[str, list[list[float]]] = {}

        def ask(server: Server) -> None:
            found = []
            for sequence in sequences:
                logps, label = server.api.score(sequence)
                if label != self.label:
                    raise LostError(f"it holds the weights {label}, and {self.label} was sent")
                found.append(logps)
            rows[server.url] = found

        return [rows[server.url] for server in self._each_or_lost(self.ready, ask)]

    def checksums(self) -> list[Any]:
        """The checksums of all workers whose server can tell them."""
        held: list[Any] = []
        able = [server for server in self.ready if server.facts is not None and server.facts.extended]
        self._each_or_lost(able, lambda server: held.extend(server.api.checksums()))
        return held

    def close(self) -> None:
        for server in self.servers:
            server.api.http.hang_up()
            if server.sender is not None:
                server.sender.close()
            server.sender = None


class _Round:
    """One `Fleet.run`: threads that each serve one request at a time."""

    def __init__(self, fleet: Fleet, requests: list[Request], sampling: Sampling):
        self.fleet, self.sampling = fleet, sampling
        self.pending = deque(sorted(requests, key=lambda request: -request.cost))
        self.under_way = 0
        self.left = len(requests)
        self.turn = threading.Condition()
        self.is_over = False
        self.results: queue.SimpleQueue[tuple[Request, Sampled] | Exception | None] = queue.SimpleQueue()
        count = min(len(requests), fleet.most * len(fleet.servers))
        self.threads = [threading.Thread(target=self._serve, daemon=True) for _ in range(count)]

    def run(self, take: Callable[[Request, Sampled], None]) -> list[Request]:
        for thread in self.threads:
            thread.start()
        looked = time.monotonic()
        while self.left:
            try:
                result = self.results.get(timeout=LOOK_SECONDS)
            except queue.Empty:
                result = None
            if isinstance(result, Exception):
                raise result
            if result is not None:
                take(*result)
                self.left -= 1
            if time.monotonic() - looked > LOOK_SECONDS and len(self.fleet.ready) < len(self.fleet.servers):
                looked = time.monotonic()
                if self.fleet.revive():
                    with self.turn:
                        self.turn.notify_all()
            with self.turn:
                if not self.fleet.ready and not self.under_way and self.results.empty():
                    return list(self.pending)
        return []

    def end(self) -> None:
        """Ends all threads, and what the servers still do for them."""
        with self.turn:
            self.is_over = True
            self.turn.notify_all()
        for thread in self.threads:
            while thread.is_alive():
                for server in self.fleet.servers:
                    server.api.http.hang_up()
                thread.join(0.1)

    def _serve(self) -> None:
        while (chosen := self._next()) is not None:
            request, server = chosen
            try:
                sampled = server.api.generate(request.token_ids, self.sampling, request.seed, request.most)
                if sampled.label != self.fleet.label:
                    raise LostError(f"it sampled from the weights {sampled.label}, and {self.fleet.label} was sent")
                self._done(request, server, (request, sampled))
            except LostError as error:
                self._again(request, server, error)
            except Exception as error:  # raised where `run` was called
                self._done(request, server, error)

    def _next(self) -> tuple[Request, Server] | None:
        """Waits for a server that has room. None if no request is left: who had one that failed repeats it."""
        with self.turn:
            while self.pending and not self.is_over:
                free = [server for server in self.fleet.ready if server.requests < self.fleet.most]
                if free:
                    server = min(free, key=lambda server: server.load)
                    request = self.pending.popleft()
                    server.load += request.cost
                    server.requests += 1
                    self.under_way += 1
                    return request, server
                self.turn.wait()
        return None

    def _leave(self, request: Request, server: Server) -> None:
        server.load -= request.cost
        server.requests -= 1
        self.under_way -= 1
        self.turn.notify()

    def _done(self, request: Request, server: Server, result: tuple[Request, Sampled] | Exception) -> None:
        with self.turn:
            self.results.put(result)
            self._leave(request, server)

    def _again(self, request: Request, server: Server, error: LostError) -> None:
        """Gives the request back for another server."""
        with self.turn:
            if not self.is_over:
                if server.label == self.fleet.label:
                    self.fleet._lost(server, error)
                self.fleet.failures[id(request)] += 1
                self.pending.appendleft(request)
                most = len(self.fleet.servers) + 2
                if self.fleet.failures[id(request)] > most:
                    self.results.put(
                        ServerError(
                            f"a request of {len(request.token_ids)} tokens failed {most + 1} times; the last time on "
                            f"{server.url}: {error}"
                        )
                    )
            self.results.put(None)
            self._leave(request, server)


def _taker(server: Server, label: str) -> Callable[[Any], None]:
    sender = server.sender
    assert sender is not None
    return lambda pieces: sender.send(pieces, label)


def _each(servers: list[Server], call: Callable[[Server], T]) -> list[T]:
    """Calls for each server at once; returns the results in order."""
    if not servers:
        return []
    with ThreadPoolExecutor(len(servers)) as threads:
        return list(threads.map(call, servers))
