"""What a training step costs, phase by phase, and what ETR adds to GRPO: `stage=bench what=step`.

The model is the preset's with random weights, the work its `rl` section: prompts * group responses, sampled for real up to
`rollout.max_new_tokens`, with rewards drawn at random. ETR and GRPO train on the same rollouts in turn, each from its
advantages, bounds and metrics to the last optimizer step, so that the machine's other work hits both alike.
"""

import statistics
import time
from typing import Any

import torch
import torch.distributed as dist
from rich.console import Console
from rich.table import Table

from megatron_patches import parallel
from megatron_patches.engines.native import NativeEngine
from megatron_patches.training.actor import Actor
from megatron_patches.training.policy_loss import Objective, reduce_metrics
from pipeline.rl.advantages import advantages_of
from pipeline.rl.experience import Experience, Samples, minibatches
from pipeline.rollout.interface import Prompt, Rollout, Sampling
from pipeline.settings import Algo, Settings

PROMPT_TOKENS = 16
LOSSES = {"etr": Algo(loss="etr"), "grpo": Algo(loss="grpo")}
"""The same in everything but the bounds."""


def bench(settings: Settings) -> dict[str, Any]:
    """Medians over `bench.repeats` steps of each loss; seconds by phase, tokens a second, and the ratio ETR / GRPO.

    `etr_over_grpo_cpu` is the update's ratio by processor time of this rank, which other work on the machine disturbs less.
    """
    parallel.initialize(settings.layout, settings.seed, settings.cluster.timeout_minutes)
    torch.manual_seed(settings.seed)
    actor = Actor(settings.model, settings.layout, settings.rl, settings.rollout.temperature)
    engine = NativeEngine(actor.chunks, settings.model, settings.rollout)
    phases: dict[str, list[float]] = {"generate": [], "logprobs": []}
    updates: dict[str, list[float]] = {name: [] for name in LOSSES}
    processor: dict[str, list[float]] = {name: [] for name in LOSSES}
    tokens = 0
    for repeat in range(settings.bench.repeats + 1):
        groups, seconds = _timed(lambda: _sample(settings, engine, repeat))  # noqa: B023
        rewards = _rewards(settings, repeat)
        samples = Samples.collect(groups)
        (old_logp, _), scored = _timed(lambda: actor.logprobs_and_entropy(samples))  # noqa: B023
        tokens = int(samples.offsets[-1])
        order = list(LOSSES) if repeat % 2 else list(reversed(LOSSES))
        took, spent = {}, {}
        for name in order:
            before = time.process_time()
            took[name] = _timed(lambda: _train(settings, actor, samples, rewards, old_logp, name))[1]  # noqa: B023
            spent[name] = time.process_time() - before
        if repeat == 0:  # the first pays for warming up
            continue
        phases["generate"].append(seconds)
        phases["logprobs"].append(scored)
        for name, value in took.items():
            updates[name].append(value)
            processor[name].append(spent[name])
    medians = {name: statistics.median(values) for name, values in (phases | updates).items()}
    shared = medians["generate"] + medians["logprobs"]
    result = {
        "ranks": dist.get_world_size(),
        "tokens": tokens,
        "seconds": medians,
        "samples": phases | {f"update ({name})": values for name, values in updates.items()},
        "etr_over_grpo_update": _ratio(updates),
        "etr_over_grpo_cpu": _ratio(processor),
        "etr_over_grpo_step": (shared + medians["etr"]) / (shared + medians["grpo"]),
        "step_seconds": shared + medians["etr"],
        "generated_tokens_per_s": tokens / medians["generate"],
    }
    if dist.get_rank() == 0:
        _show(result)
    return result


def _ratio(turns: dict[str, list[float]]) -> float:
    """Median of ETR / GRPO within a turn."""
    return statistics.median(etr / grpo for etr, grpo in zip(turns["etr"], turns["grpo"], strict=True))


def _sample(settings: Settings, engine: NativeEngine, repeat: int) -> list[list[Rollout]]:
    generator = torch.Generator().manual_seed(repeat)
    ids = torch.randint(
        1, settings.model.vocab_size, (settings.rl.prompts_per_step, PROMPT_TOKENS), generator=generator
    )
    prompts = [Prompt(id=f"{repeat}-{i}", token_ids=row.tolist(), gold="") for i, row in enumerate(ids)]
    return engine.generate(prompts, settings.rl.group_size, Sampling(max_new_tokens=settings.rollout.max_new_tokens))


def _rewards(settings: Settings, repeat: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(repeat)
    shape = (settings.rl.prompts_per_step, settings.rl.group_size)
    return torch.randint(0, 2, shape, generator=generator).double()


def _train(settings: Settings, actor: Actor, samples: Samples, rewards, old_logp: torch.Tensor, name: str) -> None:
    algo = LOSSES[name]
    objective = Objective.of(algo, settings.rl, settings.rollout)
    signal, _ = advantages_of(algo, samples, rewards)
    experience = Experience.of(samples, signal, old_logp, everything=objective.everything)
    done = []
    for epoch in range(settings.rl.epochs):
        for chosen in minibatches(len(signal), settings.rl.minibatches, epoch):
            done.append(actor.update(experience, chosen, objective)[0])
    reduce_metrics(done)


def _timed(work) -> tuple[Any, float]:
    """Between barriers, so that the slowest rank is what counts."""
    dist.barrier()
    start = time.perf_counter()
    result = work()
    dist.barrier()
    return result, time.perf_counter() - start


def _show(result: dict[str, Any]) -> None:
    table = Table(
        "phase", "median seconds", title=f"one step of {result['tokens']:,} response tokens, {result['ranks']} ranks"
    )
    for name, seconds in result["seconds"].items():
        table.add_row(f"update ({name})" if name in LOSSES else name, f"{seconds:.3f}")
    table.add_row("whole step (etr)", f"{result['step_seconds']:.3f}")
    table.add_row("ETR / GRPO, update", f"{result['etr_over_grpo_update']:.4f}")
    table.add_row("ETR / GRPO, update, processor time", f"{result['etr_over_grpo_cpu']:.4f}")
    table.add_row("ETR / GRPO, whole step", f"{result['etr_over_grpo_step']:.4f}")
    Console().print(table)
