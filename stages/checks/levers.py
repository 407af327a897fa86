"""Rungs that pull a lever of docs/levers.md: a step with it must be the step without it, by local layers in the same type.

What a lever needs that is not here (Transformer Engine, a newer device) is the reason for which its rung is skipped.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from megatron_patches.training.actor import Actor
from pipeline.common.errors import UsageError
from pipeline.rl.experience import Experience
from pipeline.run import checks
from pipeline.run.memory import GIB
from pipeline.settings import Settings
from stages.checks import actor
from stages.checks.ladder import Found, NotHere

LEVERS = {
    "gradients added in the product": ("local", "rl.fused_grad_accumulation=true"),
    "fused SwiGLU": ("local", "rl.fused_swiglu=true"),
    "moments on the host": ("local", "rl.optimizer.cpu_offload=true"),
    "gradients and optimizer away": ("local", "rl.offload=gradients,optimizer"),
    "TE layers": ("te",),
    "TE layers, gradients added in the product": ("te", "rl.fused_grad_accumulation=true"),
    "TE rotation": ("te", "rl.fused_rope=true"),
    "TE attention": ("te", "rl.fused_rope=true", "rl.attention=te"),
    "TE precision-aware Adam": ("te", "rl.optimizer.precision_aware=true"),
    "TE FP8, tensorwise": ("te", "rl.fp8=tensorwise"),
    "TE FP8, blockwise": ("te", "rl.fp8=blockwise"),
    "TE FP8, mxfp8": ("te", "rl.fp8=mxfp8"),
}
"""Name -> what the layers are made of, and the settings as they are typed."""
EXPERT_LEVERS = {
    "experts in one product": ("local", "rl.grouped_experts=true"),
    "TE experts in one product": ("te", "rl.grouped_experts=true"),
}
"""The same, of a model with experts."""
TYPES = {"fp32": 1e-3, "bf16": 0.02, "fp8": 0.2}
"""Largest mean difference of log-probs, and largest relative difference of the gradient's norm."""


@dataclass(frozen=True)
class Step:
    """One optimizer step in numbers, and what a second one costs."""

    before: torch.Tensor
    """Log-probs of all response tokens before the first step, and after it."""
    after: torch.Tensor
    norm: float
    seconds: float
    peak: int
    """Bytes of the device; 0 on a CPU."""


def same_step(model: str, size: Sequence[str], lever: Sequence[str], responses: tuple[int, int, int]) -> Found:
    """A step of `model` with the settings `size`, with and without `lever`.

    Args:
        responses: prompts, responses to each, and tokens of the longest.

    Raises:
        NotHere: the settings are refused here, with what is missing.
    """
    backend, *words = lever
    plain = _with(actor.settings_of(model, None, *size), "local")
    experience = actor.experience_of(plain, *responses)
    try:
        settings = _with(actor.settings_of(model, None, *size, *words), backend)
        checks.check_training(settings)
        found = step_of(settings, experience)
    except UsageError as error:
        raise NotHere(str(error)) from error
    expected = step_of(plain, experience)
    limit = TYPES["fp8" if settings.rl.fp8 != "none" else settings.model.dtype]
    errors = {
        "log-probs before": float((found.before - expected.before).abs().mean()),
        "after": float((found.after - expected.after).abs().mean()),
        "gradient norm": abs(found.norm - expected.norm) / expected.norm,
    }
    worst = max(errors, key=lambda name: errors[name])
    got = f"{errors[worst]:.1e} ({worst}); {_cost(found, expected)}"
    moved = float((expected.after - expected.before).abs().mean())
    return Found(
        f"the step without it, within {limit:g}", got, errors[worst] < limit and bool(moved) and found.norm > 0
    )


def _with(settings: Settings, backend: str) -> Settings:
    """Layers of `backend`; typed, the key is refused on a CPU, where it changes nothing."""
    return settings.model_copy(update={"model": settings.model.model_copy(update={"backend": backend})})


def _cost(found: Step, expected: Step) -> str:
    return (
        f"{found.seconds:.2f} s and {found.peak / GIB:.1f} GiB, without it {expected.seconds:.2f} s and"
        f" {expected.peak / GIB:.1f} GiB"
    )


def step_of(settings: Settings, experience: Experience) -> Step:
    """The first step's results, and time and memory of the second. Parts that `rl.offload` names are away in between."""
    on_gpu = torch.cuda.is_available()
    actor.free()
    pulled = actor.build(settings, settings.rl.rows, settings.rl.token_head, settings.rl.recompute)
    before = pulled.logprobs(experience)
    norm = actor.update(pulled, settings, experience)
    _away_and_back(pulled)
    after = pulled.logprobs(experience)
    if on_gpu:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    actor.update(pulled, settings, experience)
    if on_gpu:
        torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    peak = torch.cuda.max_memory_allocated() if on_gpu else 0
    return Step(before, after, norm, seconds, peak)


def _away_and_back(pulled: Actor) -> None:
    pulled.park()
    pulled.fetch()
