"""The link between a trainer and vLLM servers on other nodes: commands and results over gloo, weights over NCCL (gloo
on CPU).

Rank 0 is the trainer's first rank; rank r + 1 is rank r of the servers. The groups do not use torch.distributed's
default group, since trainer and servers each have their own. Messages are pickles of a few classes; any other class is
refused. Nothing is encrypted and no password is asked for: link only machines that trust each other.
"""

import pickle
import queue
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from pipeline.common.addresses import parse_address
from pipeline.common.errors import InputError, UserError
from pipeline.common.unpickling import ForeignClass, loads

TRAINER = 0
LOCAL = ("127.0.0.1", "localhost", "::1")
MESSAGES = (
    "pipeline.rollout.gathering.Response",
    "pipeline.rollout.interface.Sampling",
    "pipeline.rollout.vllm.core.Options",
    "pipeline.rollout.vllm.core.Request",
    "torch.Size",
    *(f"torch.{name}" for name in ("float32", "bfloat16", "float16", "float64")),
)
"""The classes that commands and answers are made of, beside Python's own numbers, texts and lists."""


class ServerError(UserError):
    """A vLLM server failed or was lost."""


@dataclass
class Link:
    """One end of the link."""

    rank: int
    size: int
    control: Any
    """ProcessGroupGloo."""
    data: Any
    """ProcessGroupNCCL, or the control group if there is no GPU."""
    device: torch.device
    store: Any
    """Referenced here because the groups need it."""
    address: str

    @classmethod
    def open(cls, address: str, rank: int, size: int, device: torch.device, timeout_minutes: float) -> "Link":
        """Connects to the others at `address`, where the trainer listens. All may start in any order.

        Raises InputError if not all have come within `timeout_minutes`.
        """
        host, port = parse_address(address)
        timeout = timedelta(minutes=timeout_minutes)
        try:
            listener = socket.create_server((host, port)).detach() if rank == TRAINER and host in LOCAL else None
            store = dist.TCPStore(
                host, port, size, rank == TRAINER, timeout, wait_for_workers=False, master_listen_fd=listener
            )
            control: Any = _gloo(dist.PrefixStore("control", store), rank, size, timeout, host in LOCAL)
            data = control
            if device.type == "cuda":
                options = dist.ProcessGroupNCCL.Options()
                options._timeout = timeout
                data = dist.ProcessGroupNCCL(dist.PrefixStore("data", store), rank, size, options)
        except (RuntimeError, dist.DistError) as error:
            raise InputError(
                f"trainer and vLLM servers did not connect at rollout.server_address={address} within "
                f"{timeout_minutes:g} minutes ({_short(error)}). {size - 1} server ranks are expected "
                f"(rollout.server_ranks); start them: {_command(address, size)}"
            ) from error
        return cls(rank, size, control, data, device, store, address)

    def tell(self, message: Any = None) -> Any:
        """Sends the trainer's message, and returns it on every rank. Raises ServerError if a server is lost."""
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

        Raises ServerError if a rank sends `error` or is lost. One thread waits for each rank, because gloo reports a
        dead sender only to a receive from that rank.
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
                    raise ServerError(self._gone([rank], content)) from content
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
        """Turns a broken connection, on the trainer, into a ServerError that names the server's rank."""
        try:
            yield
        except RuntimeError as error:
            if self.rank != TRAINER:
                raise
            raise ServerError(self._gone([r for r in range(1, self.size) if self._broken(r)], error)) from error

    def _broken(self, rank: int) -> bool:
        try:
            self.control.recv([torch.zeros(1)], rank, 2)  # fails at once if the connection is closed
        except RuntimeError:
            return True
        return False

    def _gone(self, ranks: list[int], error: Exception) -> str:
        who = ", ".join(str(rank - 1) for rank in ranks) or "unknown"
        return (
            f"the vLLM server at rollout.server_address={self.address} was lost: rank {who} of {self.size - 1} "
            f"({_short(error)}). The server's output says why (killed, out of memory, machine lost). Start "
            f"the servers again ({_command(self.address, self.size)}), then this stage, which continues from its last "
            "checkpoint"
        )


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
