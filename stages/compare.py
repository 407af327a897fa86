"""Which algorithm is better, over paired seeds: `stage=compare compare.algos=[etr,grpo_matched] compare.seeds=20`.

All arms start from one warm-up, `<run>/runs/base`. Each arm then runs `rl` and `evaluate` at each seed, in the folder
`<run>/runs/<arm>-seed<n>`, with the command line of the comparison and the arm's own settings. A run that has finished under
the same settings is not run again; a run that was cut off continues. The result is `compare.json` and `compare.html`.
"""

import os
import shlex
import sys
from pathlib import Path

from pipeline.common.errors import InputError
from pipeline.common.files import read_json, write_json, write_text
from pipeline.compare.page import render
from pipeline.compare.results import Figures, read_figures
from pipeline.compare.schedule import Job, Schedule
from pipeline.compare.verdict import Table, summary_of
from pipeline.run import machines
from pipeline.run.arms import arms_of, effective, shared_words
from pipeline.run.door import ROOT
from pipeline.settings import Settings
from pipeline.stage import AGAIN, StageRun, run_stage

SHARED = ("preprocess", "sft", "convert")
"""Stages of the base that every run uses."""


def main(run: StageRun) -> dict:
    settings = run.settings
    given = given_words(run)
    arms, own = arms_of(settings, given), shared_words(settings, given)  # the command line has checked them
    seeds = range(settings.compare.first_seed, settings.compare.first_seed + settings.compare.seeds)
    folder, slots = run.root / "runs", slots_of(settings)
    schedule = Schedule(slots, ROOT, dict(os.environ), run.log)
    run.log(
        f"{len(arms)} arms x {len(seeds)} seeds, {len(slots)} at a time; the first arm, {arms[0].name}, is the subject"
    )

    base = make_base(run, schedule, folder, own, settings)
    jobs, places, failed = [], {}, {}
    for seed in seeds:  # seed by seed, so that pairs are complete early
        for arm in arms:
            name = f"{arm.name}-seed{seed}"
            places[arm.name, seed] = folder / name
            words = [*effective("rl", own, arm.words), *arm.words, f"seed={seed}", f"name={name}", f"runs_dir={folder}"]
            if is_done(folder / name, words, settings.seed):
                continue
            share(base, folder / name)
            commands = [cli("rl", words), cli("evaluate", [*words, "evaluate.checkpoint=after"])]
            jobs.append(Job(name, commands, log_of(run, name)))
    if len(jobs) < len(places):
        run.log(f"{len(places) - len(jobs)} of {len(places)} runs are there already")
    for outcome, job in zip(schedule.run(jobs), jobs, strict=True):
        if outcome.code:
            failed[outcome.name] = f"exit code {outcome.code}: {outcome.message} (all of it: {job.log})"
        else:
            mark_done(folder / outcome.name, job.commands[0][4:], settings.seed)

    table = read_table(places, failed, read_json(base / "evaluate" / "before.json"))
    planned = {arm.name: " ".join(arm.words) for arm in arms}
    summary = summary_of(table, planned, arms[0].name, settings.compare.effect, failed)
    write_json(run.root / "compare.json", summary)
    write_text(run.root / "compare.html", render(summary, f"Comparison {settings.name}", run.command("compare")))
    for line in [*summary["verdict"], *(f"FAILED {name}: {why}" for name, why in failed.items())]:
        run.log(line)
    run.log(f"{run.root / 'compare.html'} and compare.json are written")
    return {"runs": len(places), "failed": len(failed), "verdict": summary["verdict"]}


def given_words(run: StageRun) -> list[str]:
    """The arguments of the command line that started this stage."""
    again = os.environ.get(AGAIN)
    if again is None:
        raise InputError("stage=compare reads its own command line; start it with bash run.sh")
    return [word.replace("{{", "{").replace("}}", "}") for word in shlex.split(again)[3:]]


def slots_of(settings: Settings) -> list[dict[str, str]]:
    """Environment variables of each slot: none on a CPU, its GPUs otherwise."""
    gpus = machines.uses_gpus(settings.cluster)
    count = settings.compare.parallel or (1 if gpus else machines.cores())
    size = settings.cluster.devices_per_node
    if not gpus or count == 1:
        return [{} for _ in range(count)]
    return [{"CUDA_VISIBLE_DEVICES": ",".join(map(str, range(i * size, (i + 1) * size)))} for i in range(count)]


def cli(stage: str, words: list[str]) -> list[str]:
    return [sys.executable, "-m", "pipeline.run.cli", f"stage={stage}", *words]


def log_of(run: StageRun, name: str) -> Path:
    return run.folder() / "logs" / f"{name}.log"


def make_base(run: StageRun, schedule: Schedule, folder: Path, own: list[str], settings: Settings) -> Path:
    """Warm-up and first evaluation, shared by all. Stages that match are skipped by themselves."""
    words = [*effective("preprocess", own, []), f"seed={settings.seed}", "name=base", f"runs_dir={folder}"]
    stages = [*SHARED] if settings.sft.enabled else ["preprocess", "convert"]
    commands = [cli(stage, words) for stage in stages]
    commands.append(cli("evaluate", [*words, "evaluate.checkpoint=before"]))
    [outcome] = schedule.run([Job("base", commands, log_of(run, "base"))])
    if outcome.code:
        raise InputError(f"the shared warm-up failed: {outcome.message} (all of it: {log_of(run, 'base')})")
    return folder / "base"


def share(base: Path, folder: Path) -> None:
    """Links to the base's finished stages."""
    folder.mkdir(parents=True, exist_ok=True)
    for stage in SHARED:
        link = folder / stage
        if (base / stage).exists() and not link.exists():
            link.symlink_to(os.path.relpath(base / stage, folder), target_is_directory=True)


def is_done(folder: Path, words: list[str], base_seed: int) -> bool:
    """Whether the run has finished under the same arguments, from the base of the same seed."""
    mark, made = folder / "compared.json", {"words": words, "base_seed": base_seed}
    return mark.exists() and read_json(mark) == made and (folder / "evaluate" / "after.json").exists()


def mark_done(folder: Path, words: list[str], base_seed: int) -> None:
    write_json(folder / "compared.json", {"words": words, "base_seed": base_seed})


def read_table(places: dict[tuple[str, int], Path], failed: dict[str, str], before: dict) -> Table:
    """The figures of every run that finished; arms without one have an empty row."""
    table: dict[str, dict[int, Figures]] = {}
    for (arm, seed), folder in places.items():
        row = table.setdefault(arm, {})
        if folder.name not in failed:
            row[seed] = read_figures(folder, before)
    return table


if __name__ == "__main__":
    run_stage(main)
