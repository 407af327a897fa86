"""Replicas: ranks that decode together. They split the prompts, and gather the responses."""

from collections.abc import Callable
from dataclasses import dataclass
from math import lcm
from typing import Any

import torch.distributed as dist
from megatron.core import parallel_state

from pipeline.common.errors import UsageError
from pipeline.rollout.gathering import Gathering
from pipeline.rollout.interface import GenerationProgress, Groups, Rollout, Sampling
from pipeline.rollout.requests import Source, shares_of


@dataclass(frozen=True)
class Replicas:
    """The replicas of the world, and this rank's place. Consecutive ranks that together hold every weight are a
    replica.

    The ranks of a replica decode the same rows in lock step. They are the tensor-parallel ranks and, for experts, the
    expert-parallel ones. Context-parallel ranks hold equal weights, so each set of them is another replica.
    """

    count: int
    """Replicas in the world."""
    index: int
    """The number of this rank's replica."""
    size: int
    """Ranks per replica."""
    rank: int
    """This rank's number within its replica."""

    @classmethod
    def of_world(cls) -> "Replicas":
        """Finds the replicas of the actor's layout. Raises UsageError under pipeline parallelism, where no rank holds
        all layers."""
        pp = parallel_state.get_pipeline_model_parallel_world_size()
        if pp > 1:
            raise UsageError(
                f"layout.pp={pp}: the native engine needs all layers on each rank, but the actor's are split over {pp} "
                "pipeline stages. Set rollout.engine=vllm, or layout.pp=1."
            )
        tensor = parallel_state.get_tensor_model_parallel_world_size()
        expert = parallel_state.get_expert_tensor_and_model_parallel_group().size()
        size = lcm(tensor, expert)
        assert dist.get_world_size() % size == 0, "Megatron's groups are consecutive ranks when pp is 1"
        index, rank = divmod(dist.get_rank(), size)
        return cls(dist.get_world_size() // size, index, size, rank)

    def share(
        self,
        engine: Any,
        groups: Groups,
        sources: list[Source],
        sampling: Sampling,
        on_finish: Callable[[Rollout], None] | None,
        on_progress: Callable[[GenerationProgress], None] | None,
    ) -> tuple[list[Source], Gathering]:
        """Splits what `engine` is to sample of `groups` over the replicas.

        Returns the sources that this replica samples, and the Gathering that its responses go to.
        `Gathering.groups` then returns those of all replicas.
        """
        mine = shares_of(sources, self.count)[self.index]
        gathering = Gathering(
            groups,
            sampling.max_new_tokens,
            engine.policy_version,
            engine.tokenizer,
            expected=sum(len(source.samples) for source in mine),
            on_finish=on_finish,
            on_progress=on_progress,
            rank=self.rank,
            size=self.size,
            exchange=self.gather if self.count > 1 else None,
        )
        return mine, gathering

    def gather(self, mine: Any) -> list[Any]:
        """Gathers `mine` of every replica's first rank to every rank, in the order of replicas. A collective of all."""
        gathered: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(gathered, mine if self.rank == 0 else None)
        return [part for part in gathered if part is not None]
