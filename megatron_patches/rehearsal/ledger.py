"""What a rehearsal counts: memory by part and phase, operations, traffic, collectives, and waits for the device."""

import collections
import contextlib
import sys
import weakref
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch.utils.flop_counter import flop_registry

from pipeline.settings import Speed

BLOCK = 512
"""CUDA's allocator rounds every tensor up to this many bytes."""
TEMPORARIES = "temporaries"
LASTING = ("weights", "gradients", "optimizer", "reference")
"""Parts that stay in every phase; `mark` assigns them."""
FREE = frozenset(
    {
        "view", "_unsafe_view", "t", "transpose", "permute", "detach", "alias", "slice", "select", "expand",
        "unsqueeze", "squeeze", "split", "split_with_sizes", "as_strided", "unbind", "empty", "empty_like",
        "new_empty", "empty_strided", "new_empty_strided", "lift_fresh", "chunk", "set_", "narrow", "view_as",
        "_reshape_alias", "diagonal", "is_same_size", "resize_", "_local_scalar_dense",
    }
)  # fmt: skip
"""Operators that move no bytes on the device."""
CAUSAL = frozenset(
    f"_scaled_dot_product_{kind}_attention{way}" for kind in ("flash", "efficient") for way in ("", "_backward")
)
"""Attention whose formula counts the whole square of scores. Every use here is causal and computes half of it."""


@dataclass
class Phase:
    """What one phase did on this rank."""

    peak: int = 0
    """Most bytes on the device at one time."""
    parts: dict[str, int] = field(default_factory=dict)
    """The peak by part."""
    host_peak: int = 0
    """Most bytes of tensors on the host at one time."""
    both_peak: int = 0
    """Most bytes on device and host together: what a run on CPUs takes, where the two are one."""
    flops: float = 0.0
    seconds: float = 0.0
    """Of the operators one after the other, each at the slower of arithmetic and memory."""
    exchange_seconds: float = 0.0
    """Of the collectives, not overlapped with anything."""
    collectives: dict[tuple[str, str], list[int]] = field(default_factory=dict)
    """(group, operation) -> count, bytes."""
    waits: collections.Counter[str] = field(default_factory=collections.Counter)
    """Where the host waits for the device -> how often."""

    def plain(self) -> dict[str, Any]:
        """As JSON holds it; waits from the most frequent on."""
        return vars(self) | {
            "collectives": [[group, name, *row] for (group, name), row in sorted(self.collectives.items())],
            "waits": dict(self.waits.most_common()),
        }


class Ledger:
    """The books of one rank. Phases and parts nest; the innermost counts."""

    def __init__(self, speed: Speed, devices_per_node: int):
        self.speed, self.devices_per_node = speed, devices_per_node
        self.phases: dict[str, Phase] = {}
        self.total = 0
        self.host_total = 0
        """Bytes of tensors on the host."""
        self.by_part: collections.Counter[str] = collections.Counter()
        self.group_names: dict[str, str] = {}
        """torch's name of a process group -> Megatron's."""
        self.host_groups: set[str] = set()
        """torch's names of the groups over gloo, which exchange tensors of the host."""
        self._live: dict[int, tuple[Any, int, str]] = {}
        self._on_host: dict[int, Any] = {}
        self._phase, self._part = Phase(), TEMPORARIES

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Counts what happens inside under `name`."""
        before, self._phase = self._phase, self.phases.setdefault(name, Phase())
        self._note_peak()
        try:
            yield
        finally:
            self._phase = before

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Tensors made inside belong to the part `name`."""
        before, self._part = self._part, name
        try:
            yield
        finally:
            self._part = before

    def made(self, tensor: torch.Tensor) -> None:
        """Notes a tensor that an operator returned, unless its storage is known."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._live:
            return
        size = -(-storage.nbytes() // BLOCK) * BLOCK
        self._live[key] = (weakref.ref(storage, lambda _: self._gone(key)), size, self._part)
        self.total += size
        self.by_part[self._part] += size
        self._note_peak()

    def made_on_host(self, tensor: torch.Tensor) -> None:
        """As `made`, of the host."""
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._on_host:
            return

        def gone(_: Any) -> None:
            del self._on_host[key]
            self.host_total -= size

        self._on_host[key] = weakref.ref(storage, gone)
        self.host_total += size
        self._note_peak()

    def mark(self, tensors: Iterable[torch.Tensor | None], part: str) -> None:
        """Says what tensors are that stay."""
        for tensor in tensors:
            if tensor is None:
                continue
            self.made(tensor)
            key = tensor.untyped_storage()._cdata
            reference, size, old = self._live[key]
            if old not in LASTING:
                self.by_part[old] -= size
                self.by_part[part] += size
                self._live[key] = (reference, size, part)

    def operation(self, func: Any, args: Any, kwargs: dict, out: Any, traffic: int) -> None:
        """Counts one operator's arithmetic, and the bytes that it reads and writes."""
        name = func._overloadpacket.__name__
        if name in FREE:
            return
        flops = _flops(func, args, kwargs, out)
        peak = self.speed.tflops * 1e12 * self.speed.efficiency
        self._phase.flops += flops
        self._phase.seconds += max(flops / peak, traffic / (self.speed.memory_gb_s * 1e9))

    def collective(self, operation: str, group: Any, size: int) -> None:
        """Counts a collective of `group` (None: unknown) with `size` bytes: of the whole result, or of the whole input of a
        reduce-scatter."""
        ranks = dist.get_process_group_ranks(group) if group is not None else [0]
        label = self.group_names.get(group.group_name, f"{len(ranks)} ranks") if group is not None else "?"
        row = self._phase.collectives.setdefault((label, operation), [0, 0])
        row[0] += 1
        row[1] += size
        share = (len(ranks) - 1) / len(ranks)
        factor = 2 * share if operation == "allreduce" else share if _spreads(operation) else 1.0
        near = len({rank // self.devices_per_node for rank in ranks}) == 1
        rate = self.speed.link_gb_s if near else self.speed.network_gb_s
        self._phase.exchange_seconds += 0.0 if len(ranks) == 1 else size * factor / (rate * 1e9)

    def wait(self, what: str, count: int = 1) -> None:
        """Counts that the host waits for the device here."""
        self._phase.waits[f"{what} at {where()}"] += count

    def _gone(self, key: int) -> None:
        _, size, part = self._live.pop(key)
        self.total -= size
        self.by_part[part] -= size

    def _note_peak(self) -> None:
        if self.total > self._phase.peak:
            self._phase.peak = self.total
            self._phase.parts = {part: size for part, size in self.by_part.items() if size}
        self._phase.host_peak = max(self._phase.host_peak, self.host_total)
        self._phase.both_peak = max(self._phase.both_peak, self.total + self.host_total)


def nbytes(tensors: Iterable[torch.Tensor]) -> int:
    """Bytes of all tensors."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def where() -> str:
    """File and line of the innermost caller in this project or in megatron-core."""
    frame = sys._getframe(2)
    while frame is not None:
        name = frame.f_code.co_filename
        ours = "/megatron_patches/" in name and "/megatron_patches/rehearsal/" not in name
        if ours or "/megatron/core/" in name:
            return name[name.rindex("/megatron") + 1 :] + f":{frame.f_lineno}"
        frame = frame.f_back  # type: ignore[assignment]
    return "the backward pass"


def _spreads(operation: str) -> bool:
    return any(word in operation for word in ("gather", "scatter", "alltoall"))


def _flops(func: Any, args: Any, kwargs: dict, out: Any) -> float:
    packet = func._overloadpacket
    if (
        packet is torch.ops.aten._grouped_mm
    ):  # rows of all groups, or weight gradients of all: each row meets one matrix
        left, right = args[:2]
        return 2.0 * left.shape[0] * left.shape[1] * right.shape[-1]
    if packet not in flop_registry:
        return 0.0
    name = packet.__name__
    # torch's formulas do not know the `out_dtype` of a product whose sum is wider than its operands.
    plain = args[:3] if name == "addmm" else args[:2] if name == "mm" else args
    options = {key: value for key, value in kwargs.items() if key not in ("out_dtype", "out")}
    flops = flop_registry[packet](*plain, **options, out_val=out)
    return flops / 2 if name in CAUSAL else flops
