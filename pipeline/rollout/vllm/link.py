"""The link between a trainer and vLLM servers on other nodes: commands and results over gloo, weights over NCCL (gloo
on CPU).

Rank 0 is the trainer's first rank; rank r + 1 is rank r of the servers. The groups do not use torch.distributed's
default group, since trainer and servers each have their own. Messages are pickles of a few classes; any other class is
refused. Nothing is encrypted and no password is asked for: link only machines that trust each other.
"""

import pickle
import queue
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from pipeline.common.addresses import SAME_MACHINE, listener, parse_address
from pipeline.common.errors import InputError, UserError
from pipeline.common.unpickling import ForeignClass, loads
from pipeline.rollout.vllm.pulse import Pulse, Watch

TRAINER = 0
NOTICE_SECONDS = 60.0
"""How often a waiting trainer says which servers it waits for."""
PATIENCE = "patience"
"""Key of the seconds after which a server gives up a trainer that does not answer."""
MESSAGES = (
    "pipeline.rollout.gathering.Response",
    "pipeline.rollout.interface.Sampling",
    "pipeline.rollout.requests.Source",
    "pipeline.rollout.vllm.core.Options",
    "torch.Size",
    *(f"torch.{name}" for name in ("float32", "bfloat16", "float16", "float64")),
)
"""The classes that commands and answers are made of, beside Python's own numbers, texts and lists."""


class ServerError(UserError):
    """A vLLM server reported an error, or was lost."""


class ServerLostError(ServerError):
    """A vLLM server was lost: killed, or its machine or the network failed. One that is started again can replace it."""


@dataclass
class Link:
    """One end of the link."""

    address: str
    rank: int
    size: int
    device: torch.device
    store: Any
    """Outlives a lost server, so that the next one can join."""
    timeout: timedelta
    """Of each wait on the connected link."""
    patience: timedelta
    """How long `connect` waits for the others."""
    control: Any = None
    """ProcessGroupGloo."""
    data: Any = None
    """ProcessGroupNCCL, or the control group if there is no GPU."""
    turn: int = 0
    """How often the trainer has connected."""
    pulse: Watch | Pulse | None = None
    """The signs of life of the present turn."""
    silent: list[int] = field(default_factory=list)
    """The ranks that gave no sign of life."""

    @classmethod
    def open(
        cls,
        address: str,
        rank: int,
        size: int,
        device: torch.device,
        timeout_minutes: float,
        patience_minutes: float | None = None,
    ) -> "Link":
        """Connects to the others at `address`, where the trainer listens. All may start in any order.

        Raises InputError if not all have come within `patience_minutes`, by default `timeout_minutes`.
        """
        host, port = parse_address(address)
        timeout = timedelta(minutes=timeout_minutes)
        patience = timeout if patience_minutes is None else timedelta(minutes=patience_minutes)
        with _explained(address, size, patience):
            opened = listener(host, port).detach() if rank == TRAINER else None
            store = dist.TCPStore(
                host, port, size, rank == TRAINER, patience, wait_for_workers=False, master_listen_fd=opened
            )
        link = cls(address, rank, size, device, store, timeout, patience)
        link.connect()
        return link

    def connect(self) -> None:
        """Waits for the other ranks and connects to them. The trainer calls it again after a loss.

        Raises InputError as `open`.
        """
        self.close()  # the signs of the turn before must not end this one
        with _explained(self.address, self.size, self.patience):
            self.turn = self._invite() if self.rank == TRAINER else self._join()
            groups = dist.PrefixStore(f"turn{self.turn}", self.store)
            local = parse_address(self.address)[0] in SAME_MACHINE
            self.control = _gloo(dist.PrefixStore("control", groups), self.rank, self.size, self.timeout, local)
            self.data = self.control
            if self.device.type == "cuda":
                options = dist.ProcessGroupNCCL.Options()
                options._timeout = self.timeout
                self.data = dist.ProcessGroupNCCL(dist.PrefixStore("data", groups), self.rank, self.size, options)
        self._begin_pulse()

    def _begin_pulse(self) -> None:
        """The trainer gives up servers that are silent for half of its patience, and servers a trainer that is for all of it,
        so that a server that is cut off hears of it last."""
        self.silent = []
        if self.rank == TRAINER:
            keys = {rank: f"alive{self.turn}-{rank}" for rank in range(1, self.size)}
            self.pulse = Watch(self.store.clone(), keys, self.patience.total_seconds() / 2, self._drop)
        else:
            limit_s = float(self.store.get(PATIENCE))
            self.pulse = Pulse(self.store.clone(), f"alive{self.turn}-{self.rank}", limit_s, self.address)

    def _drop(self, ranks: list[int]) -> None:
        """Ends every wait of the trainer on the link, because these servers are lost."""
        self.silent = ranks
        self._hang_up()

    def close(self) -> None:
        """Ends the threads of this end."""
        if self.pulse is not None:
            self.pulse.end()

    def _join(self) -> int:
        """Reports this server rank, and waits until the trainer has read that. Returns the trainer's turn.

        The ticket is new for each process: what a dead one left in the store invites nobody.
        """
        ticket = uuid.uuid4().hex
        self.store.set(f"came{self.rank}", ticket)
        self.store.wait([f"turn-of-{ticket}"], self.patience)
        return int(self.store.get(f"turn-of-{ticket}"))

    def _invite(self) -> int:
        """Waits until every server rank has reported, and tells each the turn."""
        names = {f"came{rank}": rank - 1 for rank in range(1, self.size)}
        self.store.set(PATIENCE, str(self.patience.total_seconds()))
        end = time.monotonic() + self.patience.total_seconds()
        while True:
            left = end - time.monotonic()
            try:
                self.store.wait(list(names), timedelta(seconds=max(0.01, min(NOTICE_SECONDS, left))))
                break
            except dist.DistError:
                if left <= NOTICE_SECONDS:
                    raise
                missing = ", ".join(str(server) for name, server in names.items() if not self.store.check([name]))
                print(
                    f"waiting for the vLLM server's rank {missing} of {self.size - 1} at {self.address}, "
                    f"{(left - NOTICE_SECONDS) / 60:.0f} more minutes: {_command(self.address, self.size)}",
                    flush=True,
                )
        for name in names:
            self.store.set(f"turn-of-{self.store.get(name).decode()}", str(self.turn + 1))
            self.store.delete_key(name)
        return self.turn + 1

    def tell(self, message: Any = None) -> Any:
        """Sends the trainer's message, and returns it on every rank. Raises ServerLostError if a server is lost."""
        with self._servers_alive():
            return _message(self._spread(_numbers(message) if self.rank == TRAINER else None))

    def _spread(self, numbers: torch.Tensor | None) -> torch.Tensor:
        """Broadcasts the trainer's bytes, uint8 [n]; servers pass None."""
        length = torch.tensor([0 if numbers is None else len(numbers)])
        self.control.broadcast(length, TRAINER).wait()
        if numbers is None:
            numbers = torch.empty(int(length), dtype=torch.uint8)
        self.control.broadcast(numbers, TRAINER).wait()
        return numbers

    def weights(self, tensor: torch.Tensor) -> torch.Tensor:
        """Broadcasts the trainer's `tensor` into the servers', of the same shape and dtype. Raises as `tell`."""
        with self._servers_alive():
            self.data.broadcast(tensor, TRAINER).wait()
        return tensor

    def answer(self, message: Any) -> None:
        """Sends a message from a server's rank to the trainer."""
        numbers = _numbers(message)
        self.control.send([torch.tensor([self.rank, len(numbers)])], TRAINER, 0).wait()
        self.control.send([numbers], TRAINER, 1).wait()

    def hear(self) -> Iterator[tuple[int, Any, Any]]:
        """Yields the servers' answers to a command (rank, kind and content), until every rank is `done`.

        Raises ServerError if a rank sends `error`, and ServerLostError if one is lost. One thread waits for each rank, because
        gloo reports a dead sender only to a receive from that rank.
        """
        heard: queue.SimpleQueue = queue.SimpleQueue()

        def listen(rank: int) -> None:
            try:
                kind = None
                while kind not in ("done", "error"):
                    kind, content = self._receive(rank)
                    heard.put((rank, kind, content))
            except RuntimeError as error:
                heard.put((rank, "gone", error))
            except ServerError as error:
                heard.put((rank, "error", str(error)))

        threads = [threading.Thread(target=listen, args=(rank,), daemon=True) for rank in range(1, self.size)]
        for thread in threads:
            thread.start()
        waiting = self.size - 1
        while waiting:
            rank, kind, content = heard.get()
            if kind in ("gone", "error"):
                self._hang_up()
                for thread in threads:
                    thread.join()  # a thread that wakes while Python exits would abort the process
                if kind == "gone":
                    raise ServerLostError(self._gone([rank], content)) from content
                raise ServerError(f"the vLLM server's rank {rank - 1} failed:\n{content}")
            waiting -= kind == "done"
            if kind != "done":
                yield rank, kind, content

    def _hang_up(self) -> None:
        """Closes all connections, so that every wait on one, here or on a server, ends with an error.

        gloo closes them when a wait times out; its abort does not end waits (torch 2.13).
        """
        for rank in range(1, self.size):
            with suppress(RuntimeError):
                self.control.recv([torch.zeros(1)], rank, 2).wait(timedelta(milliseconds=1))

    def _receive(self, rank: int) -> Any:
        header = torch.zeros(2, dtype=torch.int64)
        self.control.recv([header], rank, 0).wait()
        numbers = torch.empty(int(header[1]), dtype=torch.uint8)
        self.control.recv([numbers], rank, 1).wait()
        return _message(numbers)

    @contextmanager
    def _servers_alive(self) -> Iterator[None]:
        """Turns a broken connection, on the trainer, into a ServerLostError that names the server's rank, and hangs up."""
        try:
            yield
        except RuntimeError as error:
            if self.rank != TRAINER:
                raise
            lost = ServerLostError(self._gone([r for r in range(1, self.size) if self._broken(r)], error))
            self._hang_up()
            raise lost from error

    def _broken(self, rank: int) -> bool:
        try:
            self.control.recv([torch.zeros(1)], rank, 2)  # fails at once if the connection is closed
        except RuntimeError:
            return True
        return False

    def _gone(self, ranks: list[int], error: Exception) -> str:
        who = ", ".join(str(rank - 1) for rank in self.silent or ranks) or "unknown"
        what = _short(error)
        if self.silent:
            seconds = self.patience.total_seconds() / 2
            what = f"no sign of life for {seconds:.0f} s: its machine or the link to it is lost, or it is stopped"
        return (
            f"the vLLM server at rollout.server_address={self.address} was lost: rank {who} of {self.size - 1} "
            f"({what}). The server's output says why (killed, out of memory, machine lost). Start "
            f"the servers again ({_command(self.address, self.size)})"
        )


@contextmanager
def _explained(address: str, size: int, patience: timedelta) -> Iterator[None]:
    """Turns an error of connecting into an InputError that says what to start."""
    try:
        yield
    except (RuntimeError, dist.DistError) as error:
        raise InputError(
            f"trainer and vLLM servers did not connect at rollout.server_address={address} within "
            f"{patience / timedelta(minutes=1):g} minutes ({_short(error)}). {size - 1} server ranks are expected "
            f"(rollout.server_ranks); start them: {_command(address, size)}"
        ) from error


def _command(address: str, size: int) -> str:
    return f"torchrun --nproc-per-node={size - 1} -m pipeline.rollout.vllm.server {address} {size - 1}"


def _short(error: Exception) -> str:
    """Shortens an error to its first sentence, without gloo's advice."""
    return str(error).strip().partition("\n")[0].partition(". This is typically")[0]


def _numbers(message: Any) -> torch.Tensor:
    return torch.frombuffer(bytearray(pickle.dumps(message)), dtype=torch.uint8)


def _message(numbers: torch.Tensor) -> Any:
    """The object that `_numbers` packed. Raises ServerError for one that no trainer or server sends."""
    try:
        return loads(numbers.numpy().tobytes(), MESSAGES)
    except ForeignClass as error:
        raise ServerError(f"a message on the link asks for {error}, which neither trainer nor server sends") from None


def _gloo(store: Any, rank: int, size: int, timeout: timedelta, local: bool) -> Any:
    """The group; where trainer and servers share a machine it listens there alone."""
    if not local:
        return dist.ProcessGroupGloo(store, rank, size, timeout)
    gloo: Any = dist.ProcessGroupGloo
    options = gloo._Options()
    options._timeout = timeout
    options._devices = [gloo.create_device(hostname="127.0.0.1")]
    return gloo(store, rank, size, options)
