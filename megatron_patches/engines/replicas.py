"""Which ranks decode together: the world as whole copies of the model, and the prompts' way over them and back."""

from collections.abc import Callable
from dataclasses import dataclass
from math import lcm
from typing import Any

import torch.distributed as dist
from megatron.core import parallel_state

from pipeline.common.errors import UsageError
from pipeline.rollout.gathering import Gathering
from pipeline.rollout.interface import GenerationProgress, Prompt, Rollout, Sampling
from pipeline.rollout.requests import shares_of


@dataclass(frozen=True)
class Replicas:
    """Consecutive ranks that together hold every weight form one replica; they decode the same rows in lock step.

    A replica spans the tensor-parallel ranks and, for experts, the expert-parallel ones. Context-parallel ranks hold
    equal weights, so they are further replicas.
    """

    count: int
    index: int
    """This rank's replica."""
    size: int
    """Ranks of one replica."""
    rank: int
    """This rank within its replica."""

    @classmethod
    def of_world(cls) -> "Replicas":
        """Raises UsageError under pipeline parallelism, where no rank could decode a whole layer stack."""
        pp = parallel_state.get_pipeline_model_parallel_world_size()
        if pp > 1:
            raise UsageError(
                f"layout.pp={pp}: the native engine decodes on the actor's own modules, which lie on {pp} pipeline "
                "stages. Take rollout.engine=vllm, or a layout with pp=1."
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
        prompts: list[Prompt],
        group_size: int,
        sampling: Sampling,
        on_finish: Callable[[Rollout], None] | None,
        on_progress: Callable[[GenerationProgress], None] | None,
    ) -> tuple[list[int], Gathering]:
        """Indices of the prompts that this rank's replica samples for `engine`'s `generate`, and where their responses go;
        `Gathering.groups` then has those of all replicas."""
        mine = shares_of(prompts, sampling, self.count)[self.index]
        gathering = Gathering(
            prompts,
            group_size,
            engine.policy_version,
            engine.tokenizer,
            expected=len(mine) * group_size,
            on_finish=on_finish,
            on_progress=on_progress,
            rank=self.rank,
            size=self.size,
            exchange=self.gather if self.count > 1 else None,
        )
        return mine, gathering

    def gather(self, mine: Any) -> list[Any]:
        """What every replica's first rank holds, on every rank, in the order of replicas (a collective of all)."""
        gathered: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(gathered, mine if self.rank == 0 else None)
        return [part for part in gathered if part is not None]
