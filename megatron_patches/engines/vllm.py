"""The colocated vLLM rollout engine: it runs on the actor's ranks, in the same processes."""

from collections.abc import Callable
from typing import Any

import torch.distributed as dist

from megatron_patches.engines.replicas import Replicas
from megatron_patches.engines.sync_check import SyncCheck, gathered
from megatron_patches.model.weights.buckets import BucketSender
from megatron_patches.training.policy import Policy
from pipeline.common.errors import UsageError
from pipeline.rollout.interface import GenerationProgress, Groups, Rollout, RolloutEngine, Sampling
from pipeline.rollout.requests import check_requests, row_budget, sources_of
from pipeline.rollout.vllm.blocks import checksums
from pipeline.rollout.vllm.core import EngineCore, Options, Timer
from pipeline.settings import Model
from pipeline.settings import Rollout as RolloutSettings

MIB = 2**20


class VllmEngine(RolloutEngine):
    """One vLLM engine for every `layout.rollout_tp` consecutive ranks; engines split the prompts.

    An engine has its own copy of the weights, which is random until the first `sync`. All tensor-parallel ranks of an
    engine have the same results.
    """

    independent = False

    def __init__(self, policy: Policy, rollout: RolloutSettings, tokenizer: Any, folder: str):
        """`folder` holds the model's config.json.

        Raises:
            UsageError: the engine's size does not divide the world, or the model's attention heads.
        """
        model, layout, world = policy.model, policy.layout, dist.get_world_size()
        size = layout.engine_tp
        if world % size:
            raise UsageError(
                f"layout.rollout_tp={size} does not divide the {world} ranks of this run; set a divisor of {world}"
            )
        if model.num_attention_heads % size:
            raise UsageError(
                f"layout.rollout_tp={size} does not divide the model's {model.num_attention_heads} attention heads; "
                "set a divisor of both"
            )
        index, rank = divmod(dist.get_rank(), size)
        self.replicas = Replicas(world // size, index, size, rank)
        self.rollout, self.tokenizer = rollout, tokenizer
        self.limit = row_budget(rollout, model.max_position_embeddings)
        self.policy_version = 0
        self.core = EngineCore(options_of(model, rollout, folder, size, tokenizer is not None))
        self.sender = BucketSender(policy.chunks, model, int(rollout.sync_bucket_mib * MIB))
        self.check = SyncCheck(model, rollout, self._score, lambda: gathered(checksums(self.core.model)))
        self._synced = False

    def advance(
        self,
        groups: Groups,
        sampling: Sampling,
        new_tokens: int,
        *,
        on_finish: Callable[[Rollout], None] | None = None,
        on_progress: Callable[[GenerationProgress], None] | None = None,
    ) -> Groups:
        """Samples at most `new_tokens` more tokens of each unfinished response.

        `on_finish` is called once per rollout; the ranks of an engine alternate.

        Raises:
            InputError: an empty prompt, or one longer than rollout.max_prompt_tokens.
            UsageError: prompt and response exceed the model's context, or there are stop strings and no tokenizer.
            RuntimeError: `sync` was not called since the start or the last `sleep`.
        """
        check_requests(self.rollout, [group[0].prompt for group in groups], sampling, self.limit)
        if self.core.asleep or not self._synced:
            raise RuntimeError("the vLLM engine has no weights: call sync(actor, version) before generate")
        sources = sources_of(groups, sampling, new_tokens)
        mine, gathering = self.replicas.share(self, groups, sources, sampling, on_finish, on_progress)
        for response in self.core.generate(mine, sampling, self.policy_version, gathering.meter.reach):
            gathering.add(response)
        found = gathering.groups()
        self.check.remember(found)
        return found

    def sync(self, actor: Policy, policy_version: int) -> dict[str, float]:
        """Sends the actor's weights bucket by bucket, and compares engine and actor on a few sequences.

        Returns seconds, GiB sent and gap metrics. Raises GapError, naming the worst tensor, if the two differ by more
        than `rollout.gap_limit`.
        """
        timer = Timer()
        actor.fetch(weights_only=True)
        self.core.wake("weights")
        self.core.load(self.sender)
        expected = self.check.expected(actor, policy_version)
        actor.park()  # before the cache takes its memory
        self.core.wake("kv_cache")
        self.core.weights_changed()
        self.policy_version, self._synced = policy_version, True
        metrics = {"seconds/sync": timer.lap(), "sync/gib": self.sender.sent_bytes / 2**30}
        metrics |= self.check.compare(actor, policy_version, expected)
        return metrics | {"seconds/sync_check": timer.lap()}

    def _score(self, sequences: list[list[int]]) -> list[list[list[float]]]:
        return self.replicas.gather(self.core.score(sequences))

    def sleep(self) -> None:
        """Frees the engine's GPU memory until the next `sync`."""
        self.core.sleep()


def options_of(model: Model, rollout: RolloutSettings, folder: str, tp: int, has_tokenizer: bool) -> Options:
    """Makes an engine's options from the settings; `folder` holds the model's config.json."""
    return Options(
        folder=folder,
        tp=tp,
        dtype="bfloat16" if model.dtype == "bf16" else "float32",
        max_tokens=row_budget(rollout, model.max_position_embeddings).tokens,
        max_concurrent=rollout.max_concurrent,
        kv_bytes=int(rollout.kv_memory_gib * 2**30),
        gpu_memory_share=rollout.gpu_memory_share,
        has_tokenizer=has_tokenizer,
    )
