"""Rungs that check the actor: its update against the CPU's, its memory, the memory of a save, and the native engine's speed.

The weights are drawn on the CPU, the same on every device. The CPU's results come from a process that sees no GPU
(`python -m stages.checks.actor <model> <tokens>`), because megatron-core is patched for one or the other as it is imported.
"""

import gc
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from megatron_patches import parallel
from megatron_patches.engines.native import NativeEngine
from megatron_patches.model import checkpoint
from megatron_patches.model.weights.mapping import canonical
from megatron_patches.training.actor import Actor
from megatron_patches.training.policy_loss import Objective
from pipeline.rl.advantages import advantages_of
from pipeline.rl.experience import Experience, Samples
from pipeline.rollout.interface import Prompt, Rollout, Sampling
from pipeline.run.compose import compose
from pipeline.run.door import ROOT
from pipeline.run.memory import GIB, estimate
from pipeline.run.shapes import count
from pipeline.settings import Settings
from stages.checks.ladder import Found, NotHere

VARIANTS = (
    ("padded", "fused", "none"), ("padded", "recompute", "full"), ("packed", "fused", "full"), ("packed", "recompute", "none"),
)  # fmt: skip
"""Rows, head and recompute of activations: four that hold every pair of choices."""
TOLERANCE = 1e-3
"""Largest difference between a GPU's fp32 results and the CPU's."""
BF16_GAP = 0.05
"""Largest mean difference between log-probs of the engine and of the actor in bf16."""
PROMPT_TOKENS = 16


@dataclass(frozen=True)
class Result:
    """One optimizer step in numbers."""

    before: list[float]
    """Log-probs of all response tokens before it."""
    norm: float
    after: list[float]


def settings_of(model: str, dtype: str | None = None, *more: str) -> Settings:
    """The preset on one device, with the native engine. `more`: other settings, as they are typed."""
    cluster = "local" if parallel.device().type == "cpu" else "gpu1"
    words = ["stage=rl", f"model={model}", f"cluster={cluster}", "algo=grpo", "layout.tp=1", "rollout.engine=native"]
    return compose([*words, *([f"model.dtype={dtype}"] if dtype else []), *more])


def experience_of(settings: Settings, prompts: int, group: int, response_tokens: int) -> Experience:
    """Random responses of mixed lengths up to `response_tokens`, with groups of mixed reward."""
    generator = torch.Generator().manual_seed(0)

    def ids(length: int) -> list[int]:
        return torch.randint(1, settings.model.vocab_size, (length,), generator=generator).tolist()

    groups = []
    for number in range(prompts):
        prompt = Prompt(id=str(number), token_ids=ids(PROMPT_TOKENS), gold="")
        lengths = [max(1, response_tokens - response_tokens // 4 * (i % 4)) for i in range(group)]
        usual = [-math.log(settings.model.vocab_size)]
        groups.append(
            [
                Rollout(
                    prompt=prompt, sample=i, token_ids=ids(length), logps=usual * length, raw_logps=usual * length,
                    finish_reason="length", policy_version=0,
                )
                for i, length in enumerate(lengths)
            ]
        )  # fmt: skip
    samples = Samples.collect(groups)
    rewards = torch.arange(prompts * group, dtype=torch.float64).view(prompts, group) % 2
    signal, _ = advantages_of(settings.algo, samples, rewards)
    return Experience.of(samples, signal, None)


def build(
    settings: Settings, rows: str = "packed", head: str = "fused", recompute: str = "none", lr: float = 1e-5
) -> Actor:
    """An actor whose random weights depend on the shape alone."""
    optimizer = settings.rl.optimizer.model_copy(update={"lr": lr, "warmup_steps": 0})
    changes = {"rows": rows, "token_head": head, "recompute": recompute, "optimizer": optimizer}
    actor = Actor(settings.model, settings.layout, settings.rl.model_copy(update=changes), temperature=1.0)
    with torch.no_grad():
        # By their local names, since the GPU's layers may be Transformer Engine's and the CPU's never are.
        named = {canonical(name): weight for name, weight in actor.chunks[0].named_parameters()}
        for number, (name, weight) in enumerate(sorted(named.items())):
            random = torch.empty(weight.shape).uniform_(-0.04, 0.04, generator=torch.Generator().manual_seed(number))
            weight.copy_(random + 1 if "norm" in name else random)
    actor.weights_changed()
    return actor


def one_step(settings: Settings, experience: Experience, rows: str, head: str, recompute: str) -> Result:
    """Log-probs, an optimizer step, and log-probs again."""
    actor = build(settings, rows, head, recompute)
    before = actor.logprobs(experience)
    norm = update(actor, settings, experience)
    return Result(before.tolist(), norm, actor.logprobs(experience).tolist())


def update(actor: Actor, settings: Settings, experience: Experience) -> float:
    """One optimizer step on everything; returns the gradient's norm."""
    objective = Objective.of(settings.algo, actor.rl, settings.rollout)
    _, optim = actor.update(experience, torch.arange(len(experience.signal)), objective)
    return optim["optim/grad_norm"]


def update_as_on_cpu(model: str, response_tokens: int) -> Found:
    """`Actor.update` in fp32, rows padded and packed, both heads, activations kept and recomputed, against one CPU process."""
    settings = settings_of(model, "fp32")
    experience = experience_of(settings, 2, 4, response_tokens)
    expected = _on_cpu(model, response_tokens)
    moved = max(abs(a - b) for a, b in zip(expected.before, expected.after, strict=True))
    worst, at = 0.0, ""
    for variant in VARIANTS:
        found = one_step(settings, experience, *variant)
        free()
        errors = [abs(found.norm - expected.norm) / expected.norm]
        for name in ("before", "after"):
            errors += [abs(a - b) for a, b in zip(getattr(found, name), getattr(expected, name), strict=True)]
        if (error := max(errors)) >= worst:
            worst, at = error, " ".join(map(str, variant[:2])) + (" recompute" if variant[2] != "none" else "")
    asked = f"log-probs before and after, and gradient norm, as on the CPU within {TOLERANCE:g}"
    got = f"{worst:.1e} ({at}); the step moved log-probs by up to {moved:.1e}"
    return Found(asked, got, worst < TOLERANCE < moved)


def _on_cpu(model: str, response_tokens: int) -> Result:
    process = subprocess.run(
        [sys.executable, "-m", "stages.checks.actor", model, str(response_tokens)],
        cwd=ROOT, env=os.environ | {"CUDA_VISIBLE_DEVICES": ""}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    if process.returncode:
        raise RuntimeError("the CPU's process failed: " + (process.stderr.strip().splitlines() or ["no message"])[-1])
    return Result(**json.loads(process.stdout.splitlines()[-1]))


def update_memory(settings: Settings, experience: Experience) -> Found:
    """Peak memory of an update in the preset's type, against the plan's estimate, and how long it takes."""
    planned = estimate(settings, 1, "native", on_gpu=True)
    expected = planned.training - planned.overhead
    _needs(expected)
    free()
    torch.cuda.reset_peak_memory_stats()
    actor = build(settings, recompute=settings.rl.recompute)
    update(actor, settings, experience)
    torch.cuda.synchronize()
    start = time.perf_counter()
    update(actor, settings, experience)
    torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    peak = torch.cuda.max_memory_allocated()
    tokens = sum(len(p) + len(r) for p, r in zip(experience.prompts, experience.responses, strict=True))
    got = f"{peak / GIB:.1f} GiB; {tokens:,} tokens in {seconds:.2f} s"
    return Found(f"at most 1.1 x the plan's {expected / GIB:.1f} GiB", got, peak <= 1.1 * expected)


def save_memory(settings: Settings, experience: Experience) -> Found:
    """What a checkpoint with optimizer state takes on the device beyond what is there already."""
    _needs(30 * count(settings.model).total)
    free()
    actor = build(settings)
    update(actor, settings, experience)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    held = torch.cuda.memory_allocated()
    seconds = save(actor, settings)
    extra = torch.cuda.max_memory_allocated() - held
    limit = 8 * count(settings.model).total
    got = f"{extra / GIB:.2f} GiB beyond {held / GIB:.1f}, in {seconds:.1f} s"
    return Found(f"at most 8 bytes a parameter more ({limit / GIB:.2f} GiB)", got, extra <= limit)


def save(actor: Actor, settings: Settings) -> float:
    """Saves into a folder that is deleted again; returns the seconds."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        checkpoint.save(Path(folder), 1, actor.chunks, settings.model, optimizer=actor.optimizer, common={})
        return time.perf_counter() - start


def decoding(settings: Settings, prompts: int, new_tokens: int) -> Found:
    """The native engine: tokens a second, and its log-probs against the actor's."""
    free()
    actor = build(settings)
    engine = NativeEngine(actor.chunks, settings.model, settings.rollout)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1, settings.model.vocab_size, (prompts, PROMPT_TOKENS), generator=generator).tolist()
    asked = [Prompt(id=str(number), token_ids=row, gold="") for number, row in enumerate(ids)]
    engine.generate(asked, 1, Sampling(max_new_tokens=8))  # the first call warms up
    start = time.perf_counter()
    groups = engine.generate(asked, 1, Sampling(max_new_tokens=new_tokens))
    seconds = time.perf_counter() - start
    samples = Samples.collect(groups)
    gap = float((actor.logprobs(samples) - samples.rollout_logp).abs().mean())
    whole = int(samples.offsets[-1]) == prompts * new_tokens
    limit = BF16_GAP if settings.model.dtype == "bf16" else TOLERANCE
    got = f"{prompts * new_tokens / seconds:,.0f} tokens/s at {prompts} sequences; log-probs differ by {gap:.1e}"
    return Found(f"whole responses; log-probs as the actor's within {limit:g} in the mean", got, whole and gap < limit)


def free() -> None:
    """Gives back what earlier rungs left: Megatron's objects refer to each other in circles."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _needs(size: float) -> None:
    """Skips a rung that measures the device's memory where there is no such counter, or too little of it."""
    if parallel.device().type == "cpu":
        raise NotHere("a CPU has no counter of peak memory")
    free()
    if size > (there := torch.cuda.mem_get_info()[0]):
        raise NotHere(f"{size / GIB:.0f} GiB are needed, {there / GIB:.0f} are free")


def main(model: str, response_tokens: str) -> None:
    """The CPU's own step, as JSON."""
    settings = settings_of(model, "fp32")
    parallel.initialize(settings.layout, settings.seed)
    experience = experience_of(settings, 2, 4, int(response_tokens))
    print(json.dumps(asdict(one_step(settings, experience, "padded", "recompute", "none"))))
    parallel.finish()


if __name__ == "__main__":
    main(*sys.argv[1:])
