"""Sums and gathers over the ranks that decode together: NCCL or gloo, and shared memory between CPU ranks of one host.

A decode step of a small model has two sums a layer of a few kilobytes each. Over gloo each costs 0.2-0.6 ms on two busy
cores (a socket round trip and thread hand-overs), more than the layer's arithmetic; through shared memory 0.07 ms.
"""

import math
import mmap
import os
import platform
import tempfile
import time
from pathlib import Path

import torch
import torch.distributed as dist

PART_BYTES = 4 << 20
"""Largest contribution of one rank that goes through shared memory; above, bandwidth counts and gloo is as good."""
SPINS = 200  # polls before the core is offered to others: ranks are usually a few microseconds apart
YIELDING_SECONDS = 0.02  # then a peer is busy with something else: sleep between polls
CACHE_LINE = 64
MOST_VIEWS = 256
"""Shapes of contributions whose views are kept: a few for each number of rows in flight."""


class Ranks:
    """The ranks of one process group, as the decoder uses them. Results are the same bits on every rank."""

    def __init__(self, group: dist.ProcessGroup, device: torch.device, timeout_s: float):
        self.group, self.size, self.rank = group, group.size(), group.rank()
        self._shared = SharedMemory.open(group, timeout_s) if self.size > 1 and device.type == "cpu" else None

    def sum(self, x: torch.Tensor) -> torch.Tensor:
        """Sum of every rank's contiguous `x`, in place."""
        if self.size == 1:
            return x
        if self._shared is None or not self._shared.fits(x):
            dist.all_reduce(x, group=self.group)
            return x
        parts = self._shared.exchange(x)
        if self.size == 2:  # half as long as torch.sum
            return torch.add(parts[0], parts[1], out=x)
        return torch.sum(parts, 0, out=x)

    def gather(self, x: torch.Tensor) -> torch.Tensor:
        """[T, w] of every rank -> [T, size * w]."""
        if self.size == 1:
            return x
        return self._parts(x).transpose(0, 1).reshape(x.shape[0], -1)

    def _parts(self, x: torch.Tensor) -> torch.Tensor:
        """[T, w] of every rank -> [size, T, w], which holds as what `SharedMemory.exchange` gives."""
        if self._shared is not None and self._shared.fits(x):
            return self._shared.exchange(x)
        parts = x.new_empty((self.size, *x.shape))
        dist.all_gather_single(parts.view(-1, x.shape[1]), x.contiguous(), group=self.group)
        return parts

    def _most(self, count: int) -> int:
        """Rows of one rank, where `count` are shared out; the last ranks may have fewer."""
        return -(-count // self.size)

    def rows(self, count: int) -> slice:
        """Which of `count` rows are this rank's, where each takes a part of them."""
        part = self._most(count)
        return slice(min(self.rank * part, count), min((self.rank + 1) * part, count))

    def regroup(self, x: torch.Tensor) -> torch.Tensor:
        """Some columns of all rows, [T, w] of every rank -> all columns of this rank's `rows`, [t, size * w].

        The contiguous `x` is used up: the result lies in its memory where there is room, which is still in the cache.
        """
        if self.size == 1:
            return x
        count, width = x.shape
        mine = self.rows(count)
        if self._shared is not None and self._shared.fits(x):
            parts = self._shared.exchange(x)[:, mine]
        else:
            part = self._most(count)
            parts = x.new_empty((self.size, part, width))
            padded = torch.nn.functional.pad(x, (0, 0, 0, self.size * part - count))
            dist.all_to_all_single(parts.view(-1, width), padded, group=self.group)
            parts = parts[:, : mine.stop - mine.start]
        shape = mine.stop - mine.start, self.size, width
        need = math.prod(shape)
        out = x.view(-1)[:need] if need <= x.numel() else x.new_empty(need)
        return out.view(shape).copy_(parts.transpose(0, 1)).view(shape[0], self.size * width)

    def together(self, x: torch.Tensor, count: int) -> torch.Tensor:
        """Every rank's `rows` of `count`, [t, w] -> [count, w] on every rank."""
        if self.size == 1:
            return x
        padded = torch.nn.functional.pad(x, (0, 0, 0, self._most(count) - x.shape[0]))
        return self._parts(padded).reshape(-1, x.shape[1])[:count]


class SharedMemory:
    """Two halves of one part a rank, and a counter a rank that says which exchange it has written.

    Exchange k uses half k mod 2. A rank that writes exchange k + 2 has seen every counter at k + 1, and a peer raises
    its counter to k + 1 only after it has read exchange k: so nothing is overwritten before it was read. Plain stores
    are enough on x86-64, which never reorders a store before an earlier one; elsewhere `open` returns None.
    """

    def __init__(self, memory: mmap.mmap, rank: int, size: int, timeout_s: float):
        self.rank, self.size, self.timeout_s = rank, size, timeout_s
        self.count = 0
        self.counters = memoryview(memory).cast("q")
        self.parts = torch.frombuffer(memory, dtype=torch.uint8, offset=mmap.PAGESIZE)[: 2 * size * PART_BYTES]
        self.parts = self.parts.view(2, size, PART_BYTES)
        self._made: dict[tuple[int, torch.dtype, torch.Size], tuple[torch.Tensor, torch.Tensor]] = {}
        self.peers = [other * CACHE_LINE // 8 for other in range(size) if other != rank]

    @classmethod
    def open(cls, group: dist.ProcessGroup, timeout_s: float) -> "SharedMemory | None":
        """None where the ranks do not share a memory (several hosts), or the processor may reorder stores. A collective
        of `group`."""
        size, rank = group.size(), group.rank()
        length = mmap.PAGESIZE + 2 * size * PART_BYTES
        path = [""]
        if rank == 0 and platform.machine() == "x86_64" and size * CACHE_LINE <= mmap.PAGESIZE:
            folder = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
            handle, path[0] = tempfile.mkstemp(prefix="etr-ranks-", dir=folder)
            os.truncate(handle, length)
            os.close(handle)
        dist.broadcast_object_list(path, group=group, group_src=0)
        memory = _map(path[0], length)
        opened: list[bool] = [False] * size
        dist.all_gather_object(opened, memory is not None, group=group)
        if rank == 0 and path[0]:
            os.unlink(path[0])  # every rank has it open: nothing is left behind, however they end
        return cls(memory, rank, size, timeout_s) if memory is not None and all(opened) else None

    def fits(self, x: torch.Tensor) -> bool:
        return x.nbytes <= PART_BYTES

    def exchange(self, x: torch.Tensor) -> torch.Tensor:
        """Every rank's `x`: [size, *x.shape], a view that holds until the exchange after the next one."""
        self.count += 1
        views, mine = self._views(self.count & 1, x)
        mine.copy_(x)
        self.counters[self.rank * CACHE_LINE // 8] = self.count
        for peer in self.peers:
            if self.counters[peer] < self.count:
                self._wait(peer)
        return views

    def _views(self, half: int, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Half `half` as every rank's `x`, and as this rank's; kept, because making them takes longer than a small copy."""
        key = half, x.dtype, x.shape
        if key not in self._made:
            if len(self._made) >= MOST_VIEWS:
                self._made.clear()
            views = self.parts[half, :, : x.nbytes].view(x.dtype).view(self.size, *x.shape)
            self._made[key] = views, views[self.rank]
        return self._made[key]

    def _wait(self, peer: int) -> None:
        for _ in range(SPINS):
            if self.counters[peer] >= self.count:
                return
        start = time.monotonic()
        while self.counters[peer] < self.count:
            waited = time.monotonic() - start
            if waited > self.timeout_s:
                raise RuntimeError(f"a tensor-parallel peer did not answer for {waited:.0f} s; it has probably died")
            if waited < YIELDING_SECONDS:
                os.sched_yield()
            else:
                time.sleep(2e-4)


def _map(path: str, length: int) -> mmap.mmap | None:
    if not path or not Path(path).exists():
        return None
    with open(path, "r+b") as file:
        return mmap.mmap(file.fileno(), length)
