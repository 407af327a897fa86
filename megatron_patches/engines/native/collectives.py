"""Sums and gathers over the ranks that decode together: NCCL or gloo, or shared memory between CPU ranks of one host.

A decode step of a small model needs two sums per layer, of a few kilobytes each. Over gloo each takes 0.2-0.6 ms on two
busy cores (a socket round trip and thread hand-overs), more than the layer's arithmetic. Shared memory takes 0.07 ms.
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

from pipeline.common import scratch

PART_BYTES = 4 << 20
"""Largest contribution of one rank that uses shared memory. Above it, bandwidth dominates and gloo is as good."""
SPINS = 200  # polls before yielding the core: ranks are usually a few microseconds apart
YIELDING_SECONDS = 0.02  # after this a peer is busy with something else: sleep between polls
CACHE_LINE = 64
MOST_VIEWS = 256
"""Number of shapes whose views are cached: a few for each number of live rows."""


class Ranks:
    """The collectives of the decoder over one process group. Results are the same bits on every rank."""

    def __init__(self, group: dist.ProcessGroup, device: torch.device, timeout_s: float):
        self.group, self.size, self.rank = group, group.size(), group.rank()
        self._shared = SharedMemory.open(group, timeout_s) if self.size > 1 and device.type == "cpu" else None

    def sum(self, x: torch.Tensor) -> torch.Tensor:
        """Sums the contiguous `x` of every rank, in place; any shape and floating dtype."""
        if self.size == 1:
            return x
        if self._shared is None or not self._shared.fits(x):
            dist.all_reduce(x, group=self.group)
            return x
        parts = self._shared.exchange(x)
        if self.size == 2:  # takes half the time of torch.sum
            return torch.add(parts[0], parts[1], out=x)
        return torch.sum(parts, 0, out=x)

    def gather(self, x: torch.Tensor) -> torch.Tensor:
        """Concatenates the columns of every rank: [T, w] -> [T, size * w]."""
        if self.size == 1:
            return x
        return self._parts(x).transpose(0, 1).reshape(x.shape[0], -1)

    def _parts(self, x: torch.Tensor) -> torch.Tensor:
        """Stacks [T, w] of every rank: [size, T, w], valid as long as a result of `SharedMemory.exchange`."""
        if self._shared is not None and self._shared.fits(x):
            return self._shared.exchange(x)
        parts = x.new_empty((self.size, *x.shape))
        dist.all_gather_single(parts.view(-1, x.shape[1]), x.contiguous(), group=self.group)
        return parts

    def _most(self, count: int) -> int:
        """Returns the most rows of one rank if `count` are split; the last ranks may have fewer."""
        return -(-count // self.size)

    def rows(self, count: int) -> slice:
        """Returns this rank's part of `count` rows."""
        part = self._most(count)
        return slice(min(self.rank * part, count), min((self.rank + 1) * part, count))

    def regroup(self, x: torch.Tensor) -> torch.Tensor:
        """Exchanges columns for rows: some columns of all rows, [T, w] -> all columns of this rank's `rows`, [t, size *
        w].

        The contiguous `x` is overwritten: the result uses its memory if it fits, because that is still in the CPU's
        cache.
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
        """Gathers every rank's part of `count` rows: [t, w] -> [count, w] on every rank."""
        if self.size == 1:
            return x
        padded = torch.nn.functional.pad(x, (0, 0, 0, self._most(count) - x.shape[0]))
        return self._parts(padded).reshape(-1, x.shape[1])[:count]


class SharedMemory:
    """Memory of two halves, with a part for each rank in both, and a counter for each rank: the last exchange it wrote.

    Exchange k uses half k mod 2. A rank that writes exchange k + 2 has seen every counter at k + 1, and a peer raises
    its counter to k + 1 only after it has read exchange k. So nothing is overwritten before it is read. Plain stores
    are enough on x86-64, which never moves a store before an earlier one; elsewhere `open` returns None.
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
        """Opens memory that all ranks of `group` share. A collective.

        Returns None if the ranks are on several hosts, or if the processor may reorder stores.
        """
        size, rank = group.size(), group.rank()
        length = mmap.PAGESIZE + 2 * size * PART_BYTES
        path = [""]
        if rank == 0 and platform.machine() == "x86_64" and size * CACHE_LINE <= mmap.PAGESIZE:
            handle, path[0] = tempfile.mkstemp(prefix="etr-ranks-", dir=scratch.of_this_run())
            os.truncate(handle, length)
            os.close(handle)
        dist.broadcast_object_list(path, group=group, group_src=0)
        memory = _map(path[0], length)
        opened: list[bool] = [False] * size
        dist.all_gather_object(opened, memory is not None, group=group)
        if rank == 0 and path[0]:
            os.unlink(path[0])  # every rank has it open, and no file is left behind however they end
        return cls(memory, rank, size, timeout_s) if memory is not None and all(opened) else None

    def fits(self, x: torch.Tensor) -> bool:
        """Whether `x` is small enough for `exchange`."""
        return x.nbytes <= PART_BYTES

    def exchange(self, x: torch.Tensor) -> torch.Tensor:
        """Gathers every rank's `x`: a view [size, *x.shape], valid until the exchange after the next one."""
        self.count += 1
        views, mine = self._views(self.count & 1, x)
        mine.copy_(x)
        self.counters[self.rank * CACHE_LINE // 8] = self.count
        for peer in self.peers:
            if self.counters[peer] < self.count:
                self._wait(peer)
        return views

    def _views(self, half: int, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns views of half `half`: every rank's `x`, and this rank's. They are cached, because making a view takes
        longer than a small copy."""
        key = half, x.dtype, x.shape
        if key not in self._made:
            if len(self._made) >= MOST_VIEWS:
                self._made.clear()
            views = self.parts[half, :, : x.nbytes].view(x.dtype).view(self.size, *x.shape)
            self._made[key] = views, views[self.rank]
        return self._made[key]

    def _wait(self, peer: int) -> None:
        """Waits until `peer` has written its part. Raises RuntimeError after `timeout_s`."""
        for _ in range(SPINS):
            if self.counters[peer] >= self.count:
                return
        start = time.monotonic()
        while self.counters[peer] < self.count:
            waited = time.monotonic() - start
            if waited > self.timeout_s:
                raise RuntimeError(
                    f"tensor-parallel rank {peer * 8 // CACHE_LINE} of this replica did not answer for {waited:.0f} s; "
                    "it has probably died, and its own output says why"
                )
            if waited < YIELDING_SECONDS:
                os.sched_yield()
            else:
                time.sleep(2e-4)


def _map(path: str, length: int) -> mmap.mmap | None:
    if not path or not Path(path).exists():
        return None
    with open(path, "r+b") as file:
        return mmap.mmap(file.fileno(), length)
