"""Weights out of Megatron's layout, bucket by bucket: what is sent to an engine that keeps another copy.

A bucket is one flat buffer. Its parameters belong to one pipeline stage and, for experts, one expert-parallel rank. The
holders gather their tensor-parallel shards in the buffer, and the buffer then goes to the other stages and expert ranks.
So a byte of the weights crosses the network once for each rank that receives it. The Hugging Face tensors are made of it
in a second buffer, one parameter at a time: no rank ever holds more than these two.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.distributed as dist
from megatron.core import parallel_state

from megatron_patches.model.weights.mapping import Entry, entries, join
from megatron_patches.model.weights.transfer import _cut_group, global_parameters
from pipeline.settings import Model

Piece = tuple[str, int | None, torch.Tensor]
"""A Hugging Face tensor's name and the tensor: whole (None), or, where it exceeds a bucket, its rows from an index on."""


@dataclass(frozen=True)
class Part:
    """Rows `first` to `last` of every rank's shard of a parameter."""

    entry: Entry
    first: int
    last: int
    shape: tuple[int, ...]
    """Of one shard's rows."""
    shard_rows: int
    """Rows of a whole shard."""

    @property
    def numbers(self) -> int:
        return torch.Size(self.shape).numel()

    @property
    def whole(self) -> bool:
        return self.shape[0] == self.shard_rows


@dataclass(frozen=True)
class Bucket:
    """Parameters that are gathered together: cut over the same group, or over none, and held by the same stage."""

    parts: tuple[Part, ...]
    stage: int
    expert_rank: int | None
    """None: not an expert's; every expert-parallel rank holds it."""
    shards: int
    """Over how many ranks the parts are cut."""
    numbers: int
    """Of one shard."""


class Room:
    """A buffer in which one parameter's tensors are put together, over those of the parameter before."""

    def __init__(self, flat: torch.Tensor):
        self.flat, self.used = flat, 0

    def cat(self, tensors: list[torch.Tensor], dim: int) -> torch.Tensor:
        """As torch.cat; one tensor alone is given back as it is."""
        if len(tensors) == 1:
            return tensors[0]
        shape = list(tensors[0].shape)
        shape[dim] = sum(tensor.shape[dim] for tensor in tensors)
        first, self.used = self.used, self.used + torch.Size(shape).numel()
        return torch.cat(tensors, dim, out=self.flat[first : self.used].view(shape))


class BucketSender:
    """The buckets of a model as it lies on this world; made once, iterated at every sync."""

    def __init__(self, chunks: list, model: Model, bucket_bytes: int):
        """A collective: the ranks tell each other which parameters they hold."""
        self.chunks, self.model = chunks, model
        local = global_parameters(chunks, model)
        first = next(iter(local.values()))
        self.dtype, self.device = first.dtype, first.device
        self.stage = parallel_state.get_pipeline_model_parallel_rank()
        self.expert_rank = parallel_state.get_expert_model_parallel_rank()
        mine = {
            name: (self.stage, self.expert_rank if "local_experts" in name else None, tuple(parameter.shape))
            for name, parameter in local.items()
        }
        everyone: list = [None] * dist.get_world_size()
        dist.all_gather_object(everyone, mine)
        held: dict[str, tuple] = {}
        for some in everyone:
            for name, where in some.items():
                held.setdefault(name, where)
        self.limit = max(1, bucket_bytes // first.element_size())
        self.buckets = list(self._plan(held))
        self.sent_bytes = sum(b.numbers * b.shards for b in self.buckets) * first.element_size()
        self.largest_bytes = max(b.numbers * b.shards for b in self.buckets) * first.element_size()

    def _plan(self, held: dict[str, tuple]) -> Iterator[Bucket]:
        """Neighbouring parameters as long as they fit; those of unlike holders or cuts go into separate buckets."""
        open_: dict[tuple, list[Part]] = {}
        for entry in entries(self.model):
            stage, expert_rank, shape = held[entry.name]
            shards = 1 if entry.kind == "copy" else _cut_group(entry).size()
            key = (stage, expert_rank, shards, "local_experts" in entry.name)
            for part in self._parts(entry, shape, shards):
                waiting = open_.setdefault(key, [])
                if waiting and (sum(p.numbers for p in waiting) + part.numbers) * shards > self.limit:
                    yield _bucket(key, waiting)
                    waiting.clear()
                waiting.append(part)
        for key, waiting in open_.items():
            if waiting:
                yield _bucket(key, waiting)

    def _parts(self, entry: Entry, shape: tuple[int, ...], shards: int) -> Iterator[Part]:
        """The parameter, or pieces of it: where it alone exceeds a bucket, rows of every shard at a time."""
        rows = shape[0]
        row_numbers = torch.Size(shape).numel() // rows * shards
        # Query, key and value of a group stay together, and so do the halves of gate and up, row by row.
        unit = self._unit(entry, rows)
        most = max(1, self.limit // (row_numbers * unit)) * unit if unit else rows
        step = min(most, rows)
        for first in range(0, rows, step):
            last = min(first + step, rows)
            yield Part(entry, first, last, (last - first, *shape[1:]), rows)

    def _unit(self, entry: Entry, rows: int) -> int:
        """The fewest rows of a shard that make rows of Hugging Face tensors; 0: the parameter is never cut."""
        if "local_experts" in entry.name:  # vLLM stacks experts in its own forms, which only whole tensors can fill
            return 0
        return 1 if entry.kind in ("vocab", "rows", "columns", "gate_up") else 0

    @torch.no_grad()
    def __iter__(self) -> Iterator[Piece]:
        """A collective: all ranks iterate to the end. A piece is good until the next is asked for."""
        local = global_parameters(self.chunks, self.model)
        # One buffer for all, and one for what is made of them: who reads the pieces may still hold the one before, so new
        # tensors would be a third bucket.
        buffer, joined = (
            torch.empty(self.largest_bytes // self.dtype.itemsize, dtype=self.dtype, device=self.device)
            for _ in range(2)
        )
        for bucket in self.buckets:
            self._fill(bucket, local, buffer[: bucket.numbers * bucket.shards])
            shards = buffer[: bucket.numbers * bucket.shards].view(bucket.shards, bucket.numbers)
            at = 0
            for part in bucket.parts:
                views = [shard[at : at + part.numbers].view(part.shape) for shard in shards]
                at += part.numbers
                yield from self._pieces(part, views, Room(joined))

    def _fill(self, bucket: Bucket, local: dict[str, torch.nn.Parameter], flat: torch.Tensor) -> None:
        entry = bucket.parts[0].entry
        holds = self.stage == bucket.stage and bucket.expert_rank in (None, self.expert_rank)
        if holds:
            group = _cut_group(entry)
            rank = group.rank() if bucket.shards > 1 else 0
            mine = flat[rank * bucket.numbers : (rank + 1) * bucket.numbers]
            at = 0
            for part in bucket.parts:
                source = local[part.entry.name].data[part.first : part.last]
                mine[at : at + part.numbers].view(part.shape).copy_(source)
                at += part.numbers
            if bucket.shards > 1:
                # Broadcasts out of the buffer into the buffer: gathering would need a place to gather from.
                for owner in range(bucket.shards):
                    shard = flat[owner * bucket.numbers : (owner + 1) * bucket.numbers]
                    dist.broadcast(shard, dist.get_global_rank(group, owner), group=group)
        if bucket.expert_rank is not None and self.stage == bucket.stage:
            self._share(flat, parallel_state.get_expert_model_parallel_group(), bucket.expert_rank)
        self._share(flat, parallel_state.get_pipeline_model_parallel_group(), bucket.stage)

    @staticmethod
    def _share(flat: torch.Tensor, group: dist.ProcessGroup, holder: int) -> None:
        if group.size() > 1:
            dist.broadcast(flat, dist.get_global_rank(group, holder), group=group)

    def _pieces(self, part: Part, shards: list[torch.Tensor], room: Room) -> Iterator[Piece]:
        if part.whole:
            for name, tensor in zip(part.entry.hf, join(part.entry, shards, self.model, room.cat), strict=True):
                yield name, None, tensor
            return
        kind, rows = part.entry.kind, part.shard_rows
        if kind == "columns":
            yield part.entry.hf[0], part.first, room.cat(shards, 1)
            return
        for owner, shard in enumerate(shards):
            if kind == "gate_up":
                yield from _halves(part, shard, owner * (rows // 2), rows // 2)
                continue
            first = owner * rows + part.first
            count = min(shard.shape[0], self.model.vocab_size - first) if kind == "vocab" else shard.shape[0]
            if count > 0:
                yield part.entry.hf[0], first, shard[:count]


def _halves(part: Part, shard: torch.Tensor, offset: int, half: int) -> Iterator[Piece]:
    """Rows of a shard of [gate; up], which may straddle the two."""
    gate_name, up_name = part.entry.hf
    gates = max(0, min(part.last, half) - part.first)
    if gates:
        yield gate_name, offset + part.first, shard[:gates]
    if gates < shard.shape[0]:
        yield up_name, offset + max(part.first, half) - half, shard[gates:]


def _bucket(key: tuple, parts: list[Part]) -> Bucket:
    stage, expert_rank, shards, _ = key
    return Bucket(tuple(parts), stage, expert_rank, shards, sum(part.numbers for part in parts))
