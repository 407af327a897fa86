"""Offline rollouts: sample the actor on a whole split, grade, and write shards and pass rates.

Work continues after a kill at a wave: one shard for each copy of the model. A wave is always generated whole, because
the last bits of log-probs depend on the batch; only its missing shards are written. So an interrupted run ends with the
same bytes as an undisturbed one.
"""

from pathlib import Path
from typing import Any

import torch.distributed as dist

from megatron_patches import session
from megatron_patches.engines.choose import build_engine, chosen_engine, sampling_of
from megatron_patches.model import checkpoint
from megatron_patches.training.policy import Policy
from pipeline.common.errors import UsageError
from pipeline.common.names import unknown
from pipeline.data.prompts import read_prompts
from pipeline.data.tokenizer import load as load_tokenizer
from pipeline.rl.grading import Graded, Grader
from pipeline.rollout.interface import Prompt, Rollout, Sampling
from pipeline.rollout.progress import OfflineProgress
from pipeline.rollout.requests import check_requests, row_budget
from pipeline.rollout.shards import ShardFolder, prompts_digest, sample_row
from pipeline.run.catalog import GRADING
from pipeline.run.manifests import fingerprint, flat
from pipeline.settings import Settings
from pipeline.stage import StageRun, run_stage


def main(run: StageRun) -> dict:
    settings = session.start(run)
    source = session.source_folder(run)
    tokenizer = load_tokenizer(source)
    prompts, sampling = prompts_of(run, settings, tokenizer), sampling_of(settings, tokenizer)
    limit = row_budget(settings.rollout, settings.model.max_position_embeddings)
    check_requests(
        settings.rollout, prompts, sampling, limit
    )  # all now, so that a bad prompt is reported before any work
    root, iteration = newest_checkpoint(run)
    policy = Policy(settings.model, settings.layout, settings.rl, settings.rollout.temperature)
    checkpoint.load(root, iteration, policy.chunks, settings.model)
    engine = build_engine(settings, policy, tokenizer, str(source))
    engine.sync(policy, iteration)

    group_size = settings.rollout.offline_group_size
    copies = dist.get_world_size() // (settings.layout.tp * settings.layout.pp)
    shards = ShardFolder(run.folder(), prompts, settings.rollout.offline_shard_prompts, group_size)
    weights = checkpoint.iteration_folder(root, iteration)
    plan = plan_of(settings, sampling, shards, weights, copies) if run.is_main else {}
    waves = open_shards(run, shards, plan, copies)
    to_do = sum(len(shards.members(shard)) for wave in waves for shard in wave)
    samples = len(prompts) * group_size
    with (
        Grader(settings.verify, settings.rollout.max_new_tokens) as grader,
        OfflineProgress(samples, samples - to_do * group_size, enabled=run.is_main) as display,
    ):
        for wave in waves:
            members = [prompt for shard in wave for prompt in shards.members(shard)]
            display.begin(len(members) * group_size)
            groups = engine.generate(members, group_size, sampling, on_finish=grader.early, on_progress=display.show)
            graded = grader.grade(groups)
            if run.is_main:
                write_wave(shards, wave, groups, graded)
            display.end(groups)
            if run.should_stop(last=wave is waves[-1]):
                break
        summary = display.summary()
    if summary:
        run.log(summary)
    return finish(run, shards)


def prompts_of(run: StageRun, settings: Settings, tokenizer) -> list[Prompt]:
    """Reads the prompts of `rollout.offline_split`. Raises UsageError if there is no such split."""
    split, folder = settings.rollout.offline_split, run.root / "preprocess"
    names = ["train", *sorted(file.stem for file in (folder / "eval").glob("*.jsonl"))]
    if split not in names:
        raise UsageError(unknown("rollout.offline_split", split, names))
    return read_prompts(folder / ("train.jsonl" if split == "train" else f"eval/{split}.jsonl"), run, tokenizer)


def plan_of(settings: Settings, sampling: Sampling, shards: ShardFolder, weights: Path, copies: int) -> dict[str, Any]:
    """Collects everything that the bytes of the shards depend on; `weights` is the checkpoint's folder."""
    return {
        "checkpoint": [weights.name, fingerprint(weights)],
        "prompts": prompts_digest(shards.prompts),
        "engine": chosen_engine(settings),
        "sampling": repr(sampling),
        "group_size": shards.group_size,
        "shard_prompts": shards.shard_prompts,
        "grading": flat(settings, GRADING),
        "layout": [copies, settings.layout.tp],
    }


def newest_checkpoint(run: StageRun) -> tuple[Path, int]:
    """Finds the newest iteration of the trained actor, or the converted base."""
    trained = run.root / "checkpoints"
    which = "after" if trained.is_dir() and checkpoint.latest_iteration(trained) is not None else "before"
    return session.checkpoint_of(run, which)


def open_shards(run: StageRun, shards: ShardFolder, plan: dict, copies: int) -> list[list[int]]:
    """Finds the waves that are missing in rank 0's folder; the same on every rank."""
    waves: list[list[list[int]]] = [[]]
    if run.is_main:
        for sentence in shards.open(plan):
            run.log(sentence)
        waves[0] = shards.waves(copies)
        missing = len(shards.missing())
        if missing < shards.count:
            run.log(f"{shards.count - missing} of {shards.count} shards are there; going on with the rest")
    dist.broadcast_object_list(waves, src=0)
    return waves[0]


def write_wave(shards: ShardFolder, wave: list[int], groups: list[list[Rollout]], graded: Graded) -> None:
    """Writes each shard of the wave, one line per sample."""
    first = 0
    for shard in wave:
        rows = []
        last = first + len(shards.members(shard))
        for group, rewards, grades in zip(
            groups[first:last], graded.rewards[first:last].tolist(), graded.grades[first:last], strict=True
        ):
            rows += [
                sample_row(rollout, reward=reward, correct=grade.correct, extracted=grade.extracted, layer=grade.layer)
                for rollout, reward, grade in zip(group, rewards, grades, strict=True)
            ]
        shards.write(shard, rows)
        first = last


def finish(run: StageRun, shards: ShardFolder) -> dict:
    """Writes pass rates once every shard is there."""
    if not run.is_main:
        return {}
    if missing := len(shards.missing()):
        run.log(f"{shards.count - missing} of {shards.count} shards are there; pass rates follow when all are")
        return {"shards": shards.count}
    rates = shards.finish()
    solved = sum(row["pass_rate"] for row in rates) / max(len(rates), 1)
    mixed = sum(0 < row["pass_rate"] < 1 for row in rates)
    run.log(f"{len(rates)} prompts, {shards.count} shards: pass rate {solved:.3f}, {mixed} prompts solved in part")
    return {"shards": shards.count, "prompts": len(rates), "pass_rate": solved, "mixed": mixed}


if __name__ == "__main__":
    run_stage(main)
