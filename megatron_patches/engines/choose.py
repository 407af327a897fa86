"""Builds the rollout engine of a run (`pipeline.settings.engine` chooses it), and says how it samples."""

from typing import Any

from megatron_patches.engines.native import NativeEngine
from megatron_patches.training.policy import Policy
from pipeline.rollout.interface import RolloutEngine, Sampling
from pipeline.rollout.stops import stop_ids
from pipeline.settings import Settings
from pipeline.settings.engine import check_installed, chosen_engine

__all__ = ["build_engine", "chosen_engine", "evaluation_sampling", "sampling_of"]


def build_engine(settings: Settings, policy: Policy, tokenizer, folder: str) -> RolloutEngine:
    """The chosen engine, sampling from `policy`'s weights. `folder` holds the model's config and tokenizer.

    Raises UsageError if it is vLLM in the trainer's own environment, and vLLM is not installed there.
    """
    check_installed(settings)
    if chosen_engine(settings) == "native":
        recorded = policy.routing if settings.stage == "rl" and settings.rl.routing_replay == "engine" else None
        return NativeEngine(
            policy.chunks, settings.model, settings.rollout, tokenizer, settings.cluster.collective_minutes, recorded
        )
    if settings.rollout.mode == "standalone":
        from megatron_patches.engines.standalone import StandaloneVllmEngine

        return StandaloneVllmEngine(policy, settings.rollout, tokenizer, folder, settings.cluster)
    if settings.rollout.mode == "serve":
        from megatron_patches.engines.serve import ServeEngine

        return ServeEngine(policy, settings.rollout, tokenizer, settings.cluster)
    from megatron_patches.engines.vllm import VllmEngine

    return VllmEngine(policy, settings.rollout, tokenizer, folder)


def sampling_of(settings: Settings, tokenizer, **changes) -> Sampling:
    """The run's sampling parameters, with every end of text or turn as a stop token."""
    rollout = settings.rollout
    options: dict[str, Any] = {
        "max_new_tokens": rollout.max_new_tokens,
        "temperature": rollout.temperature,
        "top_p": rollout.top_p,
        "top_k": rollout.top_k,
        "stop": tuple(rollout.stop),
        "stop_token_ids": stop_ids(tokenizer),
        "seed": settings.seed,
    }
    return Sampling(**(options | changes))


def evaluation_sampling(settings: Settings, tokenizer) -> tuple[Sampling, Sampling]:
    """Greedy decoding, and sampling as `evaluate.*` says."""
    chosen = settings.evaluate
    return (
        sampling_of(settings, tokenizer, temperature=0.0, top_p=1.0, top_k=0),
        sampling_of(settings, tokenizer, temperature=chosen.temperature, top_p=chosen.top_p, top_k=0),
    )
