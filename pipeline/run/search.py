"""`stage=plan search=true`: layouts and levers of memory that fit, ranked by the seconds of a step, and why others do not."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

from pipeline.common.errors import UsageError
from pipeline.run import plan
from pipeline.run.memory import GIB, Memory, host
from pipeline.run.pace import published
from pipeline.run.roofline import Seconds, predict
from pipeline.settings import Layout, Rl, Settings
from pipeline.settings.engine import chosen_engine, uses_gpus

SHOWN = 10
"""Choices that are printed."""
PIPELINES = (1, 2, 4, 8)
CONTEXTS = (1, 2, 4)
BUDGETS = (8192, 16384, 32768)
"""Tokens of a micro-batch that are tried, where the longest response fits, beside the one that is set."""
LEVERS: dict[str, tuple[Any, ...]] = {
    "recompute": ("none", "selective", "full"),
    "cpu_offload": (False, True),
    "offload": ([], ["gradients", "optimizer"]),
    "overlap_grad_reduce": (False, True),
}


@dataclass(frozen=True)
class Choice:
    """One layout with its levers."""

    words: str
    """What to type."""
    memory: Memory
    seconds: Seconds


def search(settings: Settings) -> str:
    """Ranks choices for `settings`, those of the rl stage, as text. What is not tried stays as it is set."""
    fits: list[Choice] = []
    refused: Counter[str] = Counter()
    example: dict[str, str] = {}
    for words, tried in choices(settings):
        found = obstacle(tried)
        if isinstance(found, Memory):
            fits.append(Choice(words, found, predict(tried, found)))
        else:
            reason, _, detail = found.partition("|")
            refused[reason] += 1
            example.setdefault(reason, f"{detail} with {words}" if detail else f"as {words}")
    # Equal seconds: fewer levers, then less memory.
    fits.sort(key=lambda choice: (round(choice.seconds.step, 3), len(choice.words.split()), choice.memory.peak))
    lines = [
        f"Layouts and levers for {settings.model_name} on {plan.world_size(settings)} devices of"
        f" {settings.cluster.device_memory_gib:g} GiB ({len(fits)} of {len(fits) + sum(refused.values())} fit; by roofline, not"
        " measured)",
        f"  {'s a step':>9}{'generate':>9}{'update':>8}{'tokens/s/GPU':>13}{'GiB':>7}  type",
    ]
    for choice in fits[:SHOWN]:
        took = choice.seconds
        lines.append(
            f"  {took.step:9.1f}{took.generation:9.1f}{took.update:8.1f}{took.tokens_per_second:13.0f}"
            f"{choice.memory.peak / GIB:7.1f}  {choice.words}"
        )
    known = published(settings, plan.world_size(settings))
    lines += [f"  {known}"] if known else []
    lines.append("Why the others do not fit")
    lines += [f"  {times:5}  {reason}: {example[reason]}" for reason, times in refused.most_common()]
    if not fits:
        lines.append("  Nothing fits: more nodes (cluster.nnodes), or a smaller rollout.gpu_memory_share.")
    return "\n".join(lines)


def choices(settings: Settings) -> Iterator[tuple[str, Settings]]:
    """What to type for each choice, and the settings that it makes."""
    model, rollout, cluster = settings.model, settings.rollout, settings.cluster
    longest = rollout.max_prompt_tokens + rollout.max_new_tokens
    budgets = sorted({settings.layout.micro_batch_tokens, *(b for b in BUDGETS if b >= longest)})
    tensors = [n for n in (1, 2, 4, 8) if n <= cluster.devices_per_node]
    experts = [n for n in (1, 2, 4, 8) if model.experts.count % n == 0] if model.experts.count else [1]
    native = rollout.engine == "native"
    for tp, pp, cp, ep, budget in product(tensors, (1,) if native else PIPELINES, CONTEXTS, experts, budgets):
        if plan.world_size(settings) % (tp * pp * cp):
            continue
        kept = {"rollout_tp": settings.layout.engine_tp} if chosen_engine(settings) == "vllm" else {}
        layout = Layout(tp=tp, pp=pp, cp=cp, ep=ep, sp=tp > 1, micro_batch_tokens=budget, **kept)
        names = ("tp", "pp", "cp", "ep", "sp", "micro_batch_tokens")
        same = {name: getattr(layout, name) == getattr(settings.layout, name) for name in names}
        typed = [f"layout.{name}={_shown(getattr(layout, name))}" for name in names if not same[name]]
        if kept and layout.tp != settings.layout.tp and settings.layout.rollout_tp is None:
            typed.append(f"layout.rollout_tp={layout.rollout_tp}")  # which follows layout.tp otherwise
        for levers, rl in _levers(settings.rl, rollout.mode == "colocated"):
            words = " ".join([*typed, *levers]) or "(as it is)"
            yield words, settings.model_copy(update={"layout": layout, "rl": rl, "stage": "rl"})


def _levers(rl: Rl, colocated: bool) -> Iterator[tuple[list[str], Rl]]:
    """What to type for each combination of levers, and the section that it makes."""
    for recompute, cpu_offload, offload, overlap in product(*LEVERS.values()):
        if (offload and not colocated) or (rl.overlap_param_gather and not overlap):
            continue
        optimizer = rl.optimizer.model_copy(update={"cpu_offload": cpu_offload})
        changes = {"recompute": recompute, "offload": offload, "overlap_grad_reduce": overlap}
        typed = [f"rl.{name}={_shown(value)}" for name, value in changes.items() if value != getattr(rl, name)]
        typed += [] if optimizer == rl.optimizer else [f"rl.optimizer.cpu_offload={_shown(cpu_offload)}"]
        yield typed, rl.model_copy(update=changes | {"optimizer": optimizer})


def _shown(value: Any) -> str:
    """As it is typed."""
    return ",".join(value) if isinstance(value, list) else str(value).lower()


def obstacle(settings: Settings) -> str | Memory:
    """Why these settings do not fit, `reason|detail`; or the estimate of the fullest device, if they do."""
    try:
        plan.check(settings)
    except UsageError as error:
        first = str(error).splitlines()[1].strip("- ")
        if "alone need" not in first:
            return f"the layout cannot be cut|{first.rstrip('.')}"
        return f"weights, gradients and optimizer do not fit|{plan.memory_of(settings).states / GIB:.1f} GiB"
    memory, device = plan.memory_of(settings), settings.cluster.device_memory_gib
    for what, size in (("training", memory.training), ("generating", memory.generating)):
        if size > device * GIB:
            return f"{what} does not fit|{size / GIB:.1f} GiB"
    need, what = host(settings, memory, uses_gpus(settings.cluster))
    if need > settings.cluster.node_memory_gib * GIB:
        return f"the node's memory does not suffice|{need / GIB:.0f} GiB for {what}"
    return memory
