"""`stage=plan plan.lengths=...`: how long engines and actor would wait for each other, in figures.

Lengths come from a run's samples.jsonl or from a file. Rates come from the settings, from what that run measured, or from a
rehearsal's model, in this order.
"""

import statistics
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from pipeline.common.errors import InputError, UsageError
from pipeline.common.files import read_jsonl
from pipeline.run.door import ROOT
from pipeline.run.pace import Pace, decode_rates, sampling_ranks
from pipeline.run.plan import world_size
from pipeline.run.simulation import MODES, STEPS, Work, simulate
from pipeline.settings import Plan, Settings
from pipeline.settings.engine import chosen_engine

LEAST_STEPS = 4
"""Measured steps that a fit of three rates needs at least."""
FITTED = ("length/max", "speed/generated_tokens", "speed/sampling_s")
"""Metrics that a fit needs."""


@dataclass(frozen=True)
class Measured:
    """What a run measured. Seconds."""

    decode: tuple[float, float, float]
    """a and b of a decode step, and c of a sequence's start (`pipeline.run.simulation`)."""
    actor: float
    sync: float


def foresee(settings: Settings, plan: Plan, rehearsed: Pace | None) -> str:
    """The text for the plan of `settings`, those of the rl stage. `rehearsed`: of rehearse=true.

    Raises:
        UsageError: nothing says how fast the engines or the actor are.
        InputError: the lengths, or a run's measurements, cannot be read.
    """
    assert plan.lengths is not None
    run = ROOT / settings.runs_dir / plan.lengths
    folder = run if run.is_dir() else None
    by_problem = lengths_of(folder / "samples.jsonl" if folder else ROOT / plan.lengths)
    lengths = [length for some in by_problem for length in some]
    (base, each, start), actor, sync, source = _rates(settings, plan, rehearsed, folder)
    work = Work(
        lengths=by_problem, responses=settings.rl.prompts_per_step * settings.rl.group_size, engines=plan.engines,
        slots=settings.rollout.max_concurrent, decode_base=base, decode_each=each, start_each=start, actor=actor, sync=sync,
        group=settings.rl.group_size, round_tokens=settings.rollout.partial_tokens or max(1, max(lengths) // 8),
    )  # fmt: skip
    lines = [
        f"Waiting, simulated over {STEPS} steps of {work.responses} responses on {work.engines} engines of up to {work.slots}"
        " sequences",
        f"  lengths of {plan.lengths}: median {statistics.median(lengths):.0f}, mean {statistics.fmean(lengths):.0f},"
        f" longest {max(lengths)}",
        f"  a decode step of n sequences takes {1000 * base:.3g} + {1000 * each:.3g} n ms, a sequence's start"
        f" {1000 * start:.3g} ms, the actor {actor:.3g} s a step, a sync {sync:.3g} s ({source})",
        f"  {'mode':<16}{'s a step':>10}{'engines idle':>15}{'actor idle':>13}",
    ]
    for mode in MODES:
        found = simulate(work, mode)
        lines.append(f"  {mode:<16}{found.seconds:10.3g}{found.engines_idle:15.0%}{found.actor_idle:13.0%}")
    lines += [
        "  One step ahead is for engines with devices of their own (rollout.mode=standalone). If they share a machine, take the"
        " rates of a run with rl.async_depth=1.",
        f"  Partial has rounds of {work.round_tokens} tokens (rollout.partial_tokens).",
    ]
    return "\n".join(lines)


def lengths_of(path: Path) -> list[list[int]]:
    """Response lengths in tokens, empty responses left out. Of a samples.jsonl: by group, because responses to one problem have
    similar lengths. Of a file with one length a line: all as if of one problem.

    Raises InputError if the file has none, or cannot be read.
    """
    try:
        if path.suffix == ".jsonl":
            responses = [row.get("responses", []) for row in read_jsonl(path)]
            found = [[int(response["tokens"]) for response in some if "tokens" in response] for some in responses]
        else:
            found = [[int(line) for line in path.read_text("utf-8").split()]]
    except (OSError, ValueError) as error:
        raise InputError(f"plan.lengths: {path} cannot be read as response lengths: {error}") from error
    found = [kept for some in found if (kept := [length for length in some if length > 0])]
    if not found:
        raise InputError(
            f"plan.lengths: {path} holds no response lengths. Name a run whose samples.jsonl has `tokens` (stage=rl writes them"
            " if rl.sample_rollouts is above 0), or a file with one length a line."
        )
    return found


def _rates(
    settings: Settings, plan: Plan, rehearsed: Pace | None, folder: Path | None
) -> tuple[tuple[float, float, float], float, float, str]:
    """The rates of decoding (`Measured.decode`), seconds of actor and sync, and where they are from."""
    decode: tuple[float, float, float] | None = None
    if plan.decode_ms:
        base, each, start = (milliseconds / 1000 for milliseconds in (*plan.decode_ms, 0.0)[:3])
        decode = base, each, start
    actor, sync = plan.actor_s, 0.0
    sources = ["given"] if decode or actor else []
    if folder is not None and not (decode and actor):
        measured = measure(folder)
        decode = decode or measured.decode
        actor, sync = actor or measured.actor, measured.sync
        sources.append(f"measured in {folder.name}")
    if rehearsed is not None and not (decode and actor):
        if decode is None and chosen_engine(settings) == "vllm":
            decode = (*decode_rates(settings), 0.0)
        actor, sync = actor or rehearsed.logprobs + rehearsed.update, rehearsed.sync
        sources.append("by the rehearsal")
    if decode is None or actor is None:
        missing = "plan.decode_ms=[a,b]" if decode is None else "plan.actor_s"
        raise UsageError(
            f"plan.lengths={plan.lengths}: give {missing}, or name a run that has measured it. rehearse=true works out the"
            " actor's seconds, and the engines' if they are vLLM."
        )
    return decode, actor, sync, ", ".join(sources)


def measure(folder: Path) -> Measured:
    """Fits speed/sampling_s = a length/max + b tokens + c responses of an engine to a run's steps, and takes the means of the
    rest, because what is foreseen is a mean too.

    The fit holds where an engine decodes its whole share at once: it makes as many decode steps as its longest response has
    tokens. The first step is left out, because it loads kernels. A run that sampled while its actor trained gives the rates
    that both have then.

    Raises:
        InputError: the run's files are missing, or its steps do not show the rates.
    """
    cure = "Give plan.decode_ms=[a,b] and plan.actor_s, or name another run."
    try:
        settings = Settings.model_validate(yaml.safe_load((folder / "config.yaml").read_text("utf-8")))
        rows = [row for row in list(read_jsonl(folder / "metrics.jsonl"))[1:] if _is_usable(row)]
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InputError(f"plan.lengths: the run {folder} cannot be read: {error}. {cure}") from error
    engines = _engines_of(settings)
    share = settings.rl.prompts_per_step * settings.rl.group_size / engines
    if settings.rollout.partial_tokens or share > settings.rollout.max_concurrent:
        why = (
            "it sampled in rounds"
            if settings.rollout.partial_tokens
            else "its engines did not decode a whole batch at once"
        )
        raise InputError(
            f"plan.lengths: the run {folder} does not show the rates of its engines, because {why}. {cure}"
        )
    if len(rows) < LEAST_STEPS:
        raise InputError(
            f"plan.lengths: the run {folder} has {len(rows)} usable steps, and a fit needs {LEAST_STEPS}. {cure}"
        )
    steps, tokens, seconds = ([row[name] for row in rows] for name in FITTED)
    decode = _fit(steps, [count / engines for count in tokens], [share] * len(rows), seconds)
    other = ("generate", "sync", "evaluate", "save")
    rest = [row["seconds/step"] - sum(row.get(f"seconds/{name}", 0.0) for name in other) for row in rows]
    sync = statistics.fmean(row.get("seconds/sync", 0.0) for row in rows)
    return Measured(decode, statistics.fmean(rest), sync)


def _is_usable(row: dict[str, Any]) -> bool:
    """Whether a step has what the fit needs, from one round of sampling."""
    return all(row.get(name) is not None for name in FITTED) and row.get("rollout/rounds", 1) == 1


def _engines_of(settings: Settings) -> int:
    world, layout = world_size(settings), settings.layout
    if chosen_engine(settings) == "native":
        return world // layout.tp
    return sampling_ranks(settings, world) // layout.engine_tp


def _fit(
    steps: list[float], tokens: list[float], responses: list[float], seconds: list[float]
) -> tuple[float, float, float]:
    """Least squares of seconds = a steps + b tokens + c responses, none below 0."""
    columns: Any = np.array([steps, tokens, responses]).T
    fits: list[tuple[float, Any]] = []
    for used in product(
        (False, True), repeat=3
    ):  # the best one without a negative rate uses some of the three columns freely
        rates = np.zeros(3)
        rates[list(used)] = np.linalg.lstsq(columns[:, list(used)], np.array(seconds), rcond=None)[0]
        if rates.min() >= 0:
            fits.append((float(((columns @ rates - seconds) ** 2).sum()), rates))
    _, best = min(fits, key=lambda fit: fit[0])
    return float(best[0]), float(best[1]), float(best[2])
