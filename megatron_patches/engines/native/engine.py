"""The native rollout engine: `pipeline.rollout.interface.RolloutEngine` on the actor's own modules."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from megatron.core.utils import unwrap_model

from megatron_patches.engines.native.batch import DecodeBatch
from megatron_patches.engines.native.cache import Cache
from megatron_patches.engines.native.decoder import Decoder
from megatron_patches.engines.native.expert_record import ExpertRecord
from megatron_patches.engines.native.stopping import StopStrings
from megatron_patches.engines.replicas import Replicas
from megatron_patches.model.routing import Routing
from pipeline.common.errors import UsageError
from pipeline.rollout.interface import GenerationProgress, Groups, Prompt, Rollout, RolloutEngine, Sampling
from pipeline.rollout.requests import Limit, Source, check_requests, sources_of
from pipeline.settings import Model
from pipeline.settings import Rollout as RolloutSettings

PREFILL_TOKENS = 8192
"""Most prompt tokens per prefill: enough to keep any device busy, and few enough for the memory of activations."""


@dataclass(frozen=True)
class _Plan:
    """The sizes of one `generate`; the same on every rank."""

    slots: int
    """Most rows at once."""
    length: int
    """Positions per row."""
    prefill_tokens: int
    stop_strings: StopStrings | None


class NativeEngine(RolloutEngine):
    """Samples from the current weights of `chunks` (wrapped or not). Every rank of the world calls each method
    together.

    Ranks that hold the same weights split the prompts; tensor-parallel ranks decode together. The cache is kept between
    calls until `sleep`. Weights of small models are packed for the processor until they change.
    """

    independent = False

    def __init__(
        self,
        chunks: list[Any],
        model: Model,
        rollout: RolloutSettings,
        tokenizer: Any = None,
        timeout_minutes: float = 30.0,
        routing: Routing | None = None,
    ):
        """`tokenizer` (of transformers) decodes texts and finds stop strings. Ranks wait for each other up to
        `timeout_minutes`. With the `routing` of `chunks`, rollouts hold the experts that sampled them. Raises UsageError
        under pipeline parallelism."""
        self.replicas = Replicas.of_world()
        self.rollout, self.tokenizer = rollout, tokenizer
        self.limit = Limit(model.max_position_embeddings, "the model's context")
        self.policy_version = 0
        self.routing = routing
        self.decoder = Decoder(unwrap_model(chunks[0]), model.vocab_size, 60 * timeout_minutes)
        if self.decoder.products.why_not and (
            not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0
        ):
            print(self.decoder.products.why_not, flush=True)
        self._cache: Cache | None = None
        self._stop_strings: StopStrings | None = None

    @torch.inference_mode()
    def advance(
        self,
        groups: Groups,
        sampling: Sampling,
        new_tokens: int,
        *,
        on_finish: Callable[[Rollout], None] | None = None,
        on_progress: Callable[[GenerationProgress], None] | None = None,
    ) -> Groups:
        """Samples as `RolloutEngine.advance` says, the same on every rank. Keys and values of what a response has are computed
        again, with the weights of now.

        `on_finish` is called once per rollout in the world; the ranks of a replica alternate. With one replica, rank r of w
        gets every w-th rollout of the flattened groups, from number r on.

        Raises:
            InputError: an empty prompt, or one longer than rollout.max_prompt_tokens.
            UsageError: prompt and response exceed the model's context, rollout.kv_memory_gib is too small for one row, or
                there are stop strings and no tokenizer.
        """
        prompts = [group[0].prompt for group in groups]
        check_requests(self.rollout, prompts, sampling, self.limit)
        sources = sources_of(groups, sampling, new_tokens)
        plan = self._plan(prompts, sampling, sources)
        mine, gathering = self.replicas.share(self, groups, sources, sampling, on_finish, on_progress)
        self.decoder.begin()
        if mine:
            slots = min(plan.slots, sum(len(source.samples) for source in mine))
            with self.routing.recording() if self.routing is not None else nullcontext():
                DecodeBatch(
                    self.decoder,
                    self._cache_for(slots, plan.length),
                    slots,
                    mine,
                    sampling,
                    self.policy_version,
                    plan.prefill_tokens,
                    plan.stop_strings,
                    None if self.routing is None else ExpertRecord(self.routing, slots, self.decoder.device),
                ).run(gathering.add, gathering.meter.add)
        return gathering.groups()

    def sync(self, actor: Any, policy_version: int) -> dict[str, float]:
        """Sets the version and discards weights packed before. Nothing is copied: the engine uses the actor's
        weights."""
        self.decoder.forget()
        self.policy_version = policy_version
        if actor is not None:
            actor.park()
        return {"seconds/sync": 0.0}

    def sleep(self) -> None:
        """Frees the cache and the packed weights."""
        self.decoder.forget()
        self._cache = None

    def _plan(self, prompts: list[Prompt], sampling: Sampling, sources: list[Source]) -> _Plan:
        """Computes the cache's shape. Raises UsageError if not one row fits.

        It uses all prompts and sources, and not this replica's share, so that every rank finds the same and raises together.
        """
        longest = max((len(prompt.token_ids) for prompt in prompts), default=1)
        # The last token is never fed; rounding keeps rows apart by whole cache lines.
        length = -(-(longest + sampling.max_new_tokens - 1) // 8) * 8
        budget = int(self.rollout.kv_memory_gib * 2**30) // self.decoder.bytes_per_token()
        prefilled = max((len(source.token_ids) for source in sources), default=1)
        prefill = max(prefilled, min(PREFILL_TOKENS, budget // 8))
        slots = (budget - prefill) // length
        if slots < 1:
            need = (length + prefill) * self.decoder.bytes_per_token() / 2**30
            raise UsageError(
                f"rollout.kv_memory_gib={self.rollout.kv_memory_gib} is too small for one sequence of {length} tokens, "
                f"which needs {need:.3g} GiB. Raise it, or lower rollout.max_new_tokens or rollout.max_prompt_tokens"
            )
        return _Plan(min(slots, self.rollout.max_concurrent), length, prefill, self._stopper(sampling))

    def _cache_for(self, slots: int, length: int) -> Cache:
        """Returns the kept cache if it fits, and is not far too large; else a new one."""
        cache, decoder = self._cache, self.decoder
        if cache is None or not slots <= cache.slots <= 2 * slots or not length <= cache.length <= 2 * length:
            self._cache = cache = None  # frees the old one before the new one is allocated
            self._cache = Cache(decoder.layer_count, slots, decoder.g, length, decoder.d, decoder.dtype, decoder.device)
        assert self._cache is not None
        return self._cache

    def _stopper(self, sampling: Sampling) -> StopStrings | None:
        if not sampling.stop:
            return None
        if self._stop_strings is None or self._stop_strings.stop != tuple(sampling.stop):
            self._stop_strings = StopStrings(
                sampling.stop, self.tokenizer, self.decoder.vocab_size, self.decoder.device
            )
        return self._stop_strings
