"""Between a trainer and vLLM servers on other nodes: commands and results over gloo, weights over NCCL (gloo on CPU).

Rank 0 is the trainer's first rank, rank r + 1 the server's rank r. The groups exist beside torch.distributed's default
group, of which trainer and servers each have their own. Messages are pickles of a few classes; any other class is
refused. Nothing is encrypted and nobody is asked for a password: link only machines that trust each other.
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
    """One end of the connection."""

    rank: int
    size: int
    control: Any
    """ProcessGroupGloo."""
    data: Any
    """ProcessGroupNCCL, or the control group where there is no GPU."""
    device: torch.device
    store: Any
    """Kept alive: the groups live by it."""
    address: str

    @classmethod
    def open(cls, address: str, rank: int, size: int, device: torch.device, timeout_minutes: float) -> "Link":
        """Connect all ranks at `address`, where the trainer listens; the first to arrive waits.

        Raises InputError if not all have arrived in time.
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
                data = dist.ProcessGroupNCCL(dist.PrefixStore("data", store), rank, size, options)
        except (RuntimeError, dist.DistError) as error:
            raise InputError(
                f"trainer and vLLM servers did not meet at rollout.server_address={address} within {timeout_minutes:g} "
                f"minutes ({_short(error)}). {size - 1} server ranks are expected "
                f"(rollout.server_ranks); start them: {_command(address, size)}"
            ) from error
        return cls(rank, size, control, data, device, store, address)

    def tell(self, message: Any = None) -> Any:
        """The trainer's message, on every rank. Raises ServerError if a server was lost."""
        with self._servers_alive():
            return _message(self._spread(_numbers(message) if self.rank == TRAINER else None))

    def _spread(self, numbers: torch.Tensor | None) -> torch.Tensor:
        length = torch.tensor([0 if numbers is None else len(numbers)])
        self.control.broadcast(length, TRAINER).wait()
        if numbers is None:
            numbers = torch.empty(int(length), dtype=torch.uint8)
        self.control.broadcast(numbers, TRAINER).wait()
        return numbers

    def weights(self, tensor: torch.Tensor) -> torch.Tensor:
        """The trainer's tensor, into the servers' `tensor` of the same shape. Raises ServerError as `tell` does."""
        with self._servers_alive():
            self.data.broadcast(tensor, TRAINER).wait()
        return tensor

    def answer(self, message: Any) -> None:
        """From a server's rank to the trainer."""
        numbers = _numbers(message)
        self.control.send([torch.tensor([self.rank, len(numbers)])], TRAINER, 0).wait()
        self.control.send([numbers], TRAINER, 1).wait()

    def hear(self) -> Iterator[tuple[int, Any, Any]]:
        """The servers' answers to a command as they come: rank, kind and content, until every rank is `done`.

        Raises ServerError when a rank sends `error` or is lost. A thread waits for each rank, because gloo does not report the
        death of a sender to a receiver that waits for any of several.
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
                    thread.join()  # one that wakes while Python ends would take the process down with an abort
                if kind == "gone":
                    raise ServerError(self._gone([rank], content)) from content
                raise ServerError(f"the vLLM server's rank {rank - 1} failed:\n{content}")
            waiting -= kind == "done"
            if kind != "done":
                yield rank, kind, content

    def _hang_up(self) -> None:
        """Close all connections, so that every wait on one, here or there, fails: gloo closes them when a wait times out (its
        abort leaves waits alone, torch 2.13)."""
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
        """On the trainer, report whose connection broke."""
        try:
            yield
        except RuntimeError as error:
            if self.rank != TRAINER:
                raise
            raise ServerError(self._gone([r for r in range(1, self.size) if self._broken(r)], error)) from error

    def _broken(self, rank: int) -> bool:
        try:
            self.control.recv([torch.zeros(1)], rank, 2)  # refused at once where the connection is closed
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
    """What happened, without gloo's advice."""
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
