"""The arms of `stage=compare`, as arguments of the runs that it makes, and what is checked of them before anything runs."""

import shlex
from dataclasses import dataclass
from pathlib import Path

from pipeline.common.errors import UsageError, UserError
from pipeline.run import checks, machines
from pipeline.run.catalog import STAGES, Job
from pipeline.run.compose import compose, dead_words
from pipeline.run.door import preset_names
from pipeline.settings import Settings

OURS = ("stage=", "name=", "runs_dir=", "seed=", "force=", "dry_run=", "compare.")
"""Arguments that the comparison sets for each run."""


@dataclass(frozen=True)
class Arm:
    """One algorithm."""

    name: str
    words: list[str]
    """The arguments that make it."""


def arms_of(settings: Settings, given: list[str]) -> list[Arm]:
    """The arms in their order. Raises UsageError for an unknown or repeated name, or fewer than two."""
    presets, arms = preset_names("algo"), []
    chosen = settings.compare.algos
    if len(chosen) < 2 or len(set(chosen)) < len(chosen):
        raise UsageError(
            f"compare.algos={','.join(chosen)}: give at least two different arms. Presets: {', '.join(presets)}"
        )
    for name in chosen:
        words = shlex.split(settings.compare.arms[name]) if name in settings.compare.arms else [f"algo={name}"]
        wrong = [word for word in words if word.startswith(OURS)]
        if wrong:
            raise UsageError(f"compare.arms.{name}: {wrong[0]} is set by the comparison. Remove it from the arm.")
        if name not in settings.compare.arms and name not in presets:
            raise UsageError(
                f"compare.algos: {name} is neither an algorithm preset ({', '.join(presets)}) nor given as"
                f' compare.arms.{name}="algo=... key=value"'
            )
        if not any(
            word.startswith("algo=") for word in words
        ):  # an arm that only changes keys keeps the given algorithm
            words = [*(word for word in given if word.startswith("algo=")), *words]
        arms.append(Arm(name, words))
    return arms


def shared_words(settings: Settings, given: list[str]) -> list[str]:
    """The arguments that all runs have: the user's, and those that fit a small model's run to one core."""
    return [word for word in given if not word.startswith(("algo=", *OURS))] + _fitting(settings, given)


def effective(stage: str, shared: list[str], own: list[str]) -> list[str]:
    """Of the arguments for all runs, those that an arm does not give itself and that have an effect beside its `own`: a single
    run refuses the others."""
    shared = _not_in(own, shared)
    dead = dead_words([f"stage={stage}", *shared, *own])
    return [word for word in shared if word.partition("=")[0] not in dead]


def check(settings: Settings, given: list[str], root: Path) -> list[Arm]:
    """Checks that every run can start, as each of them would: names, values, keys without effect, layout, files.

    Raises:
        UsageError, InputError: naming the arm.
    """
    arms, shared = arms_of(settings, given), shared_words(settings, given)
    for arm in arms:
        try:
            words = ["stage=rl", *effective("rl", shared, arm.words), *arm.words]
            dead = dead_words(words)
            if not dead:
                checks.check(Job(STAGES["rl"], compose(words)), root)
        except UserError as error:
            raise type(error)(f"compare.arms.{arm.name}: {error}") from error
    check_effects(shared, arms)
    return arms


def describe(settings: Settings, arms: list[Arm]) -> str:
    """What a dry run says of a comparison."""
    seeds = settings.compare.seeds
    lines = [f"{len(arms)} arms x {seeds} seeds = {len(arms) * seeds} runs; the first arm is the subject"]
    return "\n".join([*lines, *(f"  {arm.name}: {' '.join(arm.words)}" for arm in arms)])


def check_effects(shared: list[str], arms: list[Arm]) -> None:
    """Raises UsageError for an argument without effect: of an arm in that arm, or of all runs in every arm."""
    dead = {arm.name: dead_words(["stage=rl", *_not_in(arm.words, shared), *arm.words]) for arm in arms}
    everywhere = set.intersection(*map(set, dead.values()))
    wrong = [dead[arms[0].name][key] for key in sorted(everywhere)]
    for arm in arms:
        keys = {word.partition("=")[0] for word in arm.words}
        wrong += [f"compare.arms.{arm.name}: {why}" for key, why in dead[arm.name].items() if key in keys - everywhere]
    if wrong:
        raise UsageError("\n".join(wrong))


def _not_in(own: list[str], shared: list[str]) -> list[str]:
    """The arguments of `shared` whose keys are not among those of `own`."""
    keys = {word.partition("=")[0] for word in own}
    return [word for word in shared if word.partition("=")[0] not in keys]


def _fitting(settings: Settings, given: list[str]) -> list[str]:
    """Arguments that let a small model's run use one core, so that several run at once; none on GPUs."""
    if machines.uses_gpus(settings.cluster):
        return []
    small = {"layout.tp": "1", "cluster.devices_per_node": "1", "cluster.threads_per_rank": "1"}
    asked = {word.partition("=")[0] for word in given}
    return [] if asked & small.keys() else [f"{key}={value}" for key, value in small.items()]
