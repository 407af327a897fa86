"""`stage=bench what=step_peer`: the whole RL step beside TRL's GRPOTrainer (`bench.peer_python`), in turn on this machine.

Work: 8 prompts x 8 samples x 64 tokens on a model with random weights (`bench.model`), fp32, GRPO without a KL term, one
optimizer step; `bench.solved` of the groups have equal rewards, so no gradient. Ours is what stage=rl does: generate,
advantages, old log-probs, update, metrics; TRL takes the sampler's forward as the old policy. Each has every core: TRL as
threads, ours as `layout.tp` and data-parallel ranks.
"""

import contextlib
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from megatron_patches import parallel
from megatron_patches.engines.native import NativeEngine
from megatron_patches.model.weights import load_hf
from megatron_patches.training.actor import Actor
from megatron_patches.training.policy_loss import Objective, reduce_metrics
from pipeline.rl.advantages import advantages_of
from pipeline.rl.experience import Experience, Samples, minibatches
from pipeline.rollout.interface import Prompt, Rollout, Sampling
from pipeline.run.compose import read_preset
from pipeline.run.door import ROOT
from pipeline.settings import Algo, Model, Optimizer, Settings
from stages.bench.peer import NOTHING, Cost, Peer
from stages.bench.rollout import GROUP, PROMPTS, SHAPE, TOKENS, random_prompts, transformers_model

PEER = Path(__file__).parent / "peers" / "run_trl.py"
WARM_UP = 2
LR = 1e-3
MICRO_BATCH = {"small": PROMPTS * GROUP, "smollm2-135m": 16}
"""Sequences of a micro-batch, for both; 24 GiB of memory do not hold the activations of all 64 on the larger model."""
LONGEST = 128
"""Tokens of a sequence at most."""


def bench(settings: Settings) -> dict[str, Any]:
    """Medians of `bench.repeats` steps, and of the ratio of each pair of steps; on every rank, complete on rank 0."""
    settings = work_of(settings)
    parallel.initialize(settings.layout, settings.seed, settings.cluster.timeout_minutes)
    torch.manual_seed(settings.seed)
    model = transformers_model(settings.model)
    solved = round(settings.bench.solved * PROMPTS)
    prompts = random_prompts(PROMPTS, settings.model.vocab_size)
    actor = Actor(settings.model, settings.layout, settings.rl, settings.rollout.temperature)
    load_hf(actor.chunks, settings.model, model.state_dict().__getitem__)
    actor.weights_changed()
    engine = NativeEngine(actor.chunks, settings.model, settings.rollout)
    phases: dict[str, list[float]] = {}
    turns: dict[str, Callable[[], Cost]] = {
        "ours": lambda: Cost.of(lambda: _step(settings, actor, engine, prompts, solved, phases))
    }
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        if settings.bench.peer_python:
            turns["trl"] = lambda: NOTHING
            if dist.get_rank() == 0:
                model.save_pretrained(folder)
                work = {"model": folder, "prompts": [p.token_ids for p in prompts], "group": GROUP}
                work |= {
                    "micro_batch": MICRO_BATCH[settings.bench.model],
                    "solved": solved,
                    "tokens": TOKENS,
                    "steps": settings.bench.repeats + WARM_UP,
                    "lr": LR,
                }
                turns["trl"] = stack.enter_context(Peer(settings.bench.peer_python, PEER, work)).turn
        costs: dict[str, list[Cost]] = {name: [] for name in turns}
        for _ in range(settings.bench.repeats + WARM_UP):
            for name, turn in turns.items():
                dist.barrier()
                costs[name].append(turn().of_world())
    costs = {name: some[WARM_UP:] for name, some in costs.items()}
    result: dict[str, Any] = {
        "ranks": dist.get_world_size(),
        "tp": settings.layout.tp,
        "model": settings.bench.model,
        "groups_with_equal_rewards": solved,
        "tokens": PROMPTS * GROUP * TOKENS,
        "phases": {name: statistics.median(some[WARM_UP:]) for name, some in phases.items()},
    }
    for quantity in ("seconds", "processor_seconds"):
        all_of = {name: [getattr(cost, quantity) for cost in some] for name, some in costs.items()}
        result[quantity] = all_of
        result[f"median_{quantity}"] = {name: statistics.median(some) for name, some in all_of.items()}
        if "trl" in all_of:
            ratios = [trl / ours for ours, trl in zip(all_of["ours"], all_of["trl"], strict=True)]
            result[f"trl_over_ours_{quantity}"] = statistics.median(ratios)
    result["samples"] = result.pop("seconds")
    if dist.get_rank() == 0:
        print(_table(result), flush=True)
    return result


def work_of(settings: Settings) -> Settings:
    """`settings` with the work of this bench; the layout's tp, the seed and the machine stay."""
    rl = settings.rl.model_copy(
        update={"minibatches": 1, "epochs": 1, "rows": "padded", "optimizer": Optimizer(lr=LR, warmup_steps=0)}
    )
    layout = settings.layout.model_copy(update={"micro_batch_tokens": MICRO_BATCH[settings.bench.model] * LONGEST})
    algo = Algo(loss="grpo", eps_high=0.2, aggregate="seq-mean-token-mean")
    return settings.model_copy(update={"model": _shape(settings.bench.model), "rl": rl, "layout": layout, "algo": algo})


def _shape(name: str) -> Model:
    """The model of `bench.model`, in fp32."""
    if name == "small":
        return SHAPE
    preset = read_preset(ROOT / "configs" / "model" / f"{name}.yaml", allow_defaults=True)
    return Model(**preset["model"] | {"dtype": "fp32"})


def _step(
    settings: Settings, actor: Actor, engine: NativeEngine, prompts: list[Prompt], solved: int,
    phases: dict[str, list[float]],
) -> None:  # fmt: skip
    """One step of stage=rl; adds the seconds of its phases."""

    def timed(name: str, work: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        result = work()
        phases.setdefault(name, []).append(time.perf_counter() - start)
        return result

    groups = timed("generate", lambda: engine.generate(prompts, GROUP, Sampling(max_new_tokens=TOKENS)))
    objective = Objective.of(settings.algo, settings.rl, settings.rollout)
    samples = Samples.collect(groups)
    signal, _ = timed("advantages", lambda: advantages_of(settings.algo, samples, _rewards(groups, solved)))
    needed = samples.select(signal.scored(objective.everything))
    timed("logprobs", lambda: actor.logprobs_and_entropy(samples.select(signal.sample())))  # for gap and entropy
    experience = Experience.of(needed, signal, None, everything=objective.everything)

    def update() -> None:
        chosen = minibatches(len(signal), settings.rl.minibatches, 0)
        reduce_metrics([actor.update(experience, some, objective)[0] for some in chosen])

    timed("update", update)
    engine.sync(actor, engine.policy_version + 1)


def _rewards(groups: list[list[Rollout]], solved: int) -> torch.Tensor:
    """The share of even tokens, 1 in the first `solved` groups; fp64 [prompts, group]."""
    shares = [[sum(t % 2 == 0 for t in r.token_ids) / len(r.token_ids) for r in group] for group in groups]
    rewards = torch.tensor(shares, dtype=torch.float64)
    rewards[:solved] = 1
    return rewards


def _table(result: dict[str, Any]) -> str:
    lines = [
        f"one step of {result['tokens']:,} response tokens, model {result['model']}, {result['ranks']} ranks, tp "
        f"{result['tp']}, {result['groups_with_equal_rewards']} of {PROMPTS} groups with equal rewards"
    ]
    lines += [f"  {name:12}{seconds:8.3f} s" for name, seconds in result["phases"].items()]
    for name, seconds in result["median_seconds"].items():
        lines.append(f"{name:14}{seconds:8.3f} s{result['median_processor_seconds'][name]:10.3f} s of the processor")
    if "trl_over_ours_seconds" in result:
        by_clock, by_processor = result["trl_over_ours_seconds"], result["trl_over_ours_processor_seconds"]
        lines.append(f"TRL / ours, median over pairs of steps: {by_clock:.2f}, by processor time {by_processor:.2f}")
    return "\n".join(lines)
