"""Between a trainer and vLLM servers on other nodes: commands and results over gloo, weights over NCCL (gloo on CPU).

Rank 0 is the trainer's first rank, rank r + 1 the server's rank r. The groups stand beside torch.distributed's default
group, which trainer and servers each have to themselves. Objects are pickled: link only machines that trust each other.
"""

import pickle
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from pipeline.errors import InputError, UsageError

TRAINER = 0


def parse_address(address: str) -> tuple[str, int]:
    """`host:port`. Raises UsageError for anything else."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise UsageError(f"rollout.server_address={address}: expected host:port, for example node0:29600")
    return host, int(port)


@dataclass
class Link:
    """One end of it."""

    rank: int
    size: int
    control: Any
    """ProcessGroupGloo."""
    data: Any
    """ProcessGroupNCCL, or the control group where there is no GPU."""
    device: torch.device
    store: Any
    """Kept alive: the groups live by it."""

    @classmethod
    def open(cls, address: str, rank: int, size: int, device: torch.device, timeout_minutes: float) -> "Link":
        """Meet the others at `address`, where the trainer listens; whoever comes first waits.

        Raises InputError when not all have come in time.
        """
        host, port = parse_address(address)
        timeout = timedelta(minutes=timeout_minutes)
        try:
            store = dist.TCPStore(host, port, size, is_master=rank == TRAINER, timeout=timeout, wait_for_workers=False)
            control: Any = dist.ProcessGroupGloo(dist.PrefixStore("control", store), rank, size, timeout)
            data = control
            if device.type == "cuda":
                options = dist.ProcessGroupNCCL.Options()
                data = dist.ProcessGroupNCCL(dist.PrefixStore("data", store), rank, size, options)
        except (RuntimeError, dist.DistError) as error:
            raise InputError(
                f"trainer and vLLM servers did not meet at rollout.server_address={address} within {timeout_minutes:g} "
                f"minutes ({str(error).strip().splitlines()[0]}). {size - 1} server ranks are expected "
                f"(rollout.server_ranks); start them: torchrun --nproc-per-node={size - 1} -m "
                f"pipeline.rollout.vllm.server {address} {size - 1}"
            ) from error
        return cls(rank, size, control, data, device, store)

    def tell(self, message: Any = None) -> Any:
        """The trainer's message, on every rank."""
        return pickle.loads(_bytes(self._spread(_numbers(message) if self.rank == TRAINER else None)))

    def _spread(self, numbers: torch.Tensor | None) -> torch.Tensor:
        length = torch.tensor([0 if numbers is None else len(numbers)])
        self.control.broadcast(length, TRAINER).wait()
        if numbers is None:
            numbers = torch.empty(int(length), dtype=torch.uint8)
        self.control.broadcast(numbers, TRAINER).wait()
        return numbers

    def weights(self, tensor: torch.Tensor) -> torch.Tensor:
        """The trainer's tensor, into the servers' `tensor` of the same shape."""
        self.data.broadcast(tensor, TRAINER).wait()
        return tensor

    def answer(self, message: Any) -> None:
        """From a server's rank to the trainer."""
        numbers = _numbers(message)
        self.control.send([torch.tensor([self.rank, len(numbers)])], TRAINER, 0).wait()
        self.control.send([numbers], TRAINER, 1).wait()

    def hear(self) -> tuple[int, Any]:
        """The next answer: whose, and what."""
        header = torch.zeros(2, dtype=torch.int64)
        self.control.recv_anysource([header], 0).wait()
        rank, length = header.tolist()
        numbers = torch.empty(length, dtype=torch.uint8)
        self.control.recv([numbers], rank, 1).wait()
        return rank, pickle.loads(_bytes(numbers))


def _numbers(message: Any) -> torch.Tensor:
    return torch.frombuffer(bytearray(pickle.dumps(message)), dtype=torch.uint8)


def _bytes(numbers: torch.Tensor) -> bytes:
    return numbers.numpy().tobytes()
