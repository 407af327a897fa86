"""Routing replay: the layers with experts visit the experts that were chosen before, instead of those that the router's weights
of now would choose (`rl.routing_replay`).

Only the choice is replayed. The weights of the chosen experts come from the router's present logits, so that its gradient is
that of the policy that is trained.

Upstream's RouterReplay (megatron-core 0.16.1, transformer/moe/router_replay.py) has one list of routers for all models of a
process, remembers one micro-batch, and its caller must say when activations are recomputed. `RouterMemory` takes its place in
a router and answers the same call (patch `routing-replay`).
"""

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.utils import unwrap_model

EXCHANGED = 64 << 20
"""Bytes of one all-reduce of choices."""


class RouterMemory:
    """One router's choices: `chosen` those of its last call, `given` those that it has to make."""

    def __init__(self) -> None:
        self.given: torch.Tensor | None = None
        """uint8 [t, k], expert + 1; 0: the router's own choice. None: its own choice everywhere."""
        self.again: deque[torch.Tensor] = deque()
        """`given` of the micro-batches whose backward pass may run the layer again, oldest first."""
        self.is_recording = False
        self.chosen: torch.Tensor | None = None
        """int64 [t, k]."""

    def get_replay_topk(
        self,
        scores: torch.Tensor,
        topk: int,
        num_groups: int | None = None,
        group_topk: int | None = None,
        default_compute_topk: Callable[..., tuple[torch.Tensor, torch.Tensor]] | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What upstream's router asks in the place of a top-k: scores [t, experts] -> the chosen scores and experts, [t, k]."""
        assert default_compute_topk is not None
        values, chosen = default_compute_topk(scores, topk, num_groups=num_groups, group_topk=group_topk)
        # A layer that runs inside a backward pass is recomputed: micro-batches come there in the order of their forward pass,
        # while other micro-batches may have gone forward since.
        is_recomputed = torch._C._current_graph_task_id() != -1
        given = self.again.popleft() if is_recomputed and self.again else self.given
        if given is not None:
            wanted = given.long() - 1
            chosen = torch.where(wanted >= 0, wanted, chosen)
            values = scores.gather(1, chosen)
        if self.is_recording:
            self.chosen = chosen
        return values, chosen


class Routing:
    """The routers of a policy's chunks. Choices are uint8 [positions, layers, k], expert + 1; 0: the router's own choice. The
    layers are those of this rank, in the order of its chunks."""

    def __init__(self, chunks: list[Any], sequence_parallel: bool):
        """Gives every router of `chunks` (wrapped or not) a memory."""
        self.sequence_parallel = sequence_parallel
        self.memories: list[list[RouterMemory]] = []
        """Of each chunk."""
        for chunk in unwrap_model(chunks):
            self.memories.append([RouterMemory() for _ in chunk.decoder.layers])
            for layer, memory in zip(chunk.decoder.layers, self.memories[-1], strict=True):
                layer.mlp.router.router_replay = memory
        self.top_k: int = unwrap_model(chunks)[0].config.moe_router_topk

    @property
    def layers(self) -> int:
        return sum(map(len, self.memories))

    def layers_of(self, chunk: int) -> slice:
        """Where a chunk's layers lie among this rank's."""
        first = sum(map(len, self.memories[:chunk]))
        return slice(first, first + len(self.memories[chunk]))

    def mine(self, positions: torch.Tensor) -> torch.Tensor:
        """The part of a micro-batch's positions [T] that this rank's routers see: all, or 1 / tp under sequence parallelism."""
        if not self.sequence_parallel:
            return positions
        size, rank = (
            parallel_state.get_tensor_model_parallel_world_size(),
            parallel_state.get_tensor_model_parallel_rank(),
        )
        return positions.chunk(size)[rank]

    def give(self, chunk: int, choices: torch.Tensor | None, trains: bool) -> None:
        """Call before each forward pass of a chunk. `choices`: those of its micro-batch [T, layers of this rank, k], or None.
        `trains`: a backward pass follows, which may run layers again."""
        mine = None if choices is None else self.mine(choices)[:, self.layers_of(chunk)]
        for number, memory in enumerate(self.memories[chunk]):
            memory.given = None if mine is None else mine[:, number]
            if memory.given is not None and trains:
                memory.again.append(memory.given)

    def forget(self) -> None:
        """Call after the last micro-batch."""
        for memory in self._all():
            memory.given = memory.chosen = None
            memory.again.clear()

    @contextmanager
    def recording(self) -> Iterator[None]:
        for memory in self._all():
            memory.is_recording = True
        try:
            yield
        finally:
            for memory in self._all():
                memory.is_recording, memory.chosen = False, None

    def chosen(self, chunk: int, layers: int | None = None) -> torch.Tensor:
        """What the routers of a chunk (the first `layers` of them) chose in their last call, uint8 [t, layers, k]."""
        found = [memory.chosen for memory in self.memories[chunk][:layers]]
        return (torch.stack(found, 1) + 1).to(torch.uint8)  # type: ignore[arg-type]

    def _all(self) -> list[RouterMemory]:
        return [memory for memories in self.memories for memory in memories]


def at(choices: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """The choices of positions `places` [T]; where a place is -1 (padding), the router's own."""
    found = choices[places.clamp(min=0)]
    found[places < 0] = 0
    return found


def exchange(choices: torch.Tensor, sequence_parallel: bool, device: torch.device) -> torch.Tensor:
    """Each rank's recorded choices, 0 elsewhere -> those of all ranks that have the same layers, on the CPU. A collective."""
    group = (
        parallel_state.get_tensor_and_data_parallel_group(with_context_parallel=True)
        if sequence_parallel
        else parallel_state.get_data_parallel_group(with_context_parallel=True)
    )
    rows = max(1, EXCHANGED // max(1, choices[:1].numel()))
    for part in choices.split(rows):
        moved = part.to(device)
        dist.all_reduce(moved, group=group)
        part.copy_(moved)
    return choices
