"""Seconds of an RL step, tokens a second and MFU, from rehearsed phases and a device's data sheet.

Operators run one after the other, each at the slower of `cluster.speed.tflops * efficiency` and the memory's bandwidth;
collectives wait for nothing and overlap with nothing. Every response has its full length. Sampling with vLLM is a roofline:
each token reads the weights and the KV cache once. Grading, data and launch overhead are not in it.
"""

from dataclasses import dataclass
from typing import Any

from pipeline.run.memory import GIB
from pipeline.run.shapes import count, visited
from pipeline.settings import Settings
from pipeline.settings.engine import chosen_engine


@dataclass(frozen=True)
class Pace:
    """Seconds of the phases of one RL step, and what follows from them."""

    generation: float
    """NaN for the native engine, which is not modelled."""
    logprobs: float
    update: float
    """All optimizer steps of the step."""
    sync: float
    tokens_per_second: float
    """Prompt and response tokens of a step, by its seconds and by GPUs."""
    mfu: float
    """Of the update: 6 x parameters x tokens (of an MoE: those that a token visits), without recomputation."""

    @property
    def step(self) -> float:
        return self.generation + self.logprobs + self.update + self.sync


def pace(settings: Settings, ranks: list[dict[str, Any]], world: int, copies: int) -> Pace:
    """`ranks` are rehearsed ranks; the slowest decides. `world`: all ranks; `copies`: data-parallel ones."""
    rl, layout, rollout = settings.rl, settings.layout, settings.rollout
    length = rollout.max_prompt_tokens + rollout.max_new_tokens
    responses = rl.prompts_per_step * rl.group_size
    load = ranks[0]["load"]
    full = load["sequences"] * load["length"]
    micro_batches = -(-responses // rl.minibatches // copies * length // full)

    def slowest(name: str) -> float:
        return max(_seconds(rank, name) for rank in ranks)

    def passes(name: str, count: int) -> float:
        """`count` micro-batches through the pipeline, with the time in which it fills and drains."""
        return slowest(name) / load["micro_batches"] * (count + layout.pp - 1)

    one = passes("update", micro_batches) + slowest("gradients") + slowest("optimizer step")
    update = one * rl.minibatches * rl.epochs
    logprobs = passes("log-probs", micro_batches * rl.minibatches)
    generation = generation_seconds(settings, world, responses, length)
    sync = slowest("sync")
    tokens = responses * length
    flops = 6 * visited(settings.model) * tokens * rl.epochs
    seconds = generation + logprobs + update + sync
    mfu = flops / update / world / (settings.cluster.speed.tflops * 1e12)
    return Pace(generation, logprobs, update, sync, tokens / seconds / world, mfu)


def published(settings: Settings, world: int) -> str | None:
    """A figure that others published for this model on as many devices, as text."""
    if world == 32 and settings.model.hidden_size == 5120 and settings.model.num_layers == 64:
        return "published for Qwen3-32B on 32 H100: 571 tokens/s/GPU (with other lengths and batches)"
    return None


def _seconds(rank: dict[str, Any], name: str) -> float:
    phase = rank["phases"].get(name)
    return phase["seconds"] + phase["exchange_seconds"] if phase else 0.0


def decode_rates(settings: Settings) -> tuple[float, float]:
    """a and b of a decode step of vLLM, whose n sequences take a + b n seconds: reading the weights once, and each sequence's
    KV cache at half its greatest length."""
    speed, rollout = settings.cluster.speed, settings.rollout
    bandwidth = speed.memory_gb_s * 1e9 * speed.efficiency
    held = _cache_bytes(settings) * (rollout.max_prompt_tokens + rollout.max_new_tokens / 2)
    return _weight_bytes(settings) / bandwidth, held / bandwidth


def _weight_bytes(settings: Settings) -> float:
    """Of one rank of an engine."""
    return count(settings.model).total * _element(settings) / settings.layout.engine_tp


def _cache_bytes(settings: Settings) -> float:
    """Keys and values of one token on one rank of an engine."""
    model = settings.model
    return (
        2 * model.num_layers * model.num_query_groups * model.head_dim * _element(settings) / settings.layout.engine_tp
    )


def _element(settings: Settings) -> int:
    return 2 if settings.model.dtype == "bf16" else 4


def sampling_ranks(settings: Settings, world: int) -> int:
    """Ranks that vLLM's engines have in all, where the actor has `world`."""
    if settings.rollout.mode == "serve":  # of the size that the plan assumes
        return len(settings.rollout.server_urls) * settings.layout.engine_tp
    return settings.rollout.server_ranks if settings.rollout.mode == "standalone" else world


def generation_seconds(settings: Settings, world: int, responses: int, length: int) -> float:
    """Seconds in which vLLM samples `responses` of up to `length` tokens, prompts included; NaN for the native engine."""
    if chosen_engine(settings) == "native":
        return float("nan")
    rollout, speed, tp = settings.rollout, settings.cluster.speed, settings.layout.engine_tp
    room = rollout.gpu_memory_share * settings.cluster.device_memory_gib * GIB - _weight_bytes(settings)
    each = -(-responses // max(1, sampling_ranks(settings, world) // tp))
    at_once = max(1, min(each, rollout.max_concurrent, int(room / (_cache_bytes(settings) * length))))
    base, sequence = decode_rates(settings)
    token = 2 * visited(settings.model) / tp / (speed.tflops * 1e12 * speed.efficiency)  # seconds of arithmetic
    prompts = token * rollout.max_prompt_tokens * each
    rounds = -(-each // at_once)
    return rounds * rollout.max_new_tokens * max(base + sequence * at_once, token * at_once) + prompts
