"""Offline rollouts: sample the actor on a whole split, grade, and write shards and pass rates.

The unit that survives a kill is a wave: one shard for each copy of the model. A wave is always generated whole, because
what a batch is made of decides the last bits of its log-probs; of its shards only the missing are written. So an
interrupted run ends with the bytes of an undisturbed one.
"""

from pathlib import Path

import torch.distributed as dist

from megatron_patches import checkpoint, session
from megatron_patches.engines import build_engine, sampling_of
from megatron_patches.policy import Policy
from pipeline.data.prompts import load_eval_prompts, read_prompts
from pipeline.data.tokenizer import load as load_tokenizer
from pipeline.errors import UsageError
from pipeline.grading import Graded, Grader
from pipeline.rollout.interface import GenerationProgress, Prompt, Rollout
from pipeline.rollout.shards import ShardFolder, prompts_digest, sample_row
from pipeline.settings import Settings
from pipeline.stage import StageRun, run_stage
from pipeline.tracking import Progress


def main(run: StageRun) -> dict:
    settings = session.start(run)
    source = session.source_folder(run)
    tokenizer = load_tokenizer(source)
    prompts = prompts_of(run, settings, tokenizer)
    root, iteration = newest_checkpoint(run)
    policy = Policy(settings)
    checkpoint.load(root, iteration, policy.chunks, settings.model)
    engine = build_engine(settings, policy, tokenizer, str(source))
    engine.sync(policy, iteration)
    sampling = sampling_of(settings, tokenizer)

    group_size = settings.rollout.offline_group_size
    copies = dist.get_world_size() // (settings.layout.tp * settings.layout.pp)
    shards = ShardFolder(run.folder(), prompts, settings.rollout.offline_shard_prompts)
    plan = {
        "checkpoint": str(checkpoint.iteration_folder(root, iteration)),
        "prompts": prompts_digest(prompts),
        "sampling": repr(sampling),
        "group_size": group_size,
        "shard_prompts": shards.shard_prompts,
        "rewards": settings.verify.rewards,
        "layout": [copies, settings.layout.tp],
    }
    waves = open_shards(run, shards, plan, copies)
    done = (len(prompts) - sum(len(shards.members(shard)) for wave in waves for shard in wave)) * group_size
    with (
        Grader(settings) as grader,
        Progress(len(prompts) * group_size, "rollout", "samples", done=done, enabled=run.is_main) as display,
    ):

        def show(now: GenerationProgress) -> None:
            # This copy's share stands for all; a wave is whole only when it is graded and written.
            guess = min(done + now.rows_done * copies, done + len(members) * group_size - 1)
            display.reach(guess, f"{now.tokens_per_second * copies:,.0f} tokens/s")

        for wave in waves:
            members = [prompt for shard in wave for prompt in shards.members(shard)]
            groups = engine.generate(members, group_size, sampling, on_finish=grader.early, on_progress=show)
            graded = grader.grade(groups)
            if run.is_main:
                write_wave(shards, wave, groups, graded)
            done += len(members) * group_size
            display.reach(done)
            if run.should_stop():
                break
    return finish(run, shards)


def prompts_of(run: StageRun, settings: Settings, tokenizer) -> list[Prompt]:
    """The prompts of `rollout.offline_split`. Raises UsageError where there is no such split."""
    split = settings.rollout.offline_split
    if split == "train":
        return read_prompts(run.root / "preprocess" / "train.jsonl", run, tokenizer)
    sets = load_eval_prompts(run, tokenizer, None)
    if split not in sets:
        raise UsageError(
            f"rollout.offline_split={split}: there is no such split. Allowed: {', '.join(['train', *sets])}"
        )
    return sets[split]


def newest_checkpoint(run: StageRun) -> tuple[Path, int]:
    """The trained actor's newest iteration, or the converted base."""
    trained = run.root / "checkpoints"
    which = "after" if trained.is_dir() and checkpoint.latest_iteration(trained) is not None else "before"
    return session.checkpoint_of(run, which)


def open_shards(run: StageRun, shards: ShardFolder, plan: dict, copies: int) -> list[list[int]]:
    """The waves still to be made, as rank 0 sees the folder: the same on every rank."""
    waves: list[list[list[int]]] = [[]]
    if run.is_main:
        aside = shards.open(plan)
        if aside is not None:
            run.log(f"the shards that were there were made otherwise (see plan.json); set aside in {aside}")
        waves[0] = shards.waves(copies)
        missing = len(shards.missing())
        if missing < shards.count:
            run.log(f"{shards.count - missing} of {shards.count} shards are there; going on with the rest")
    dist.broadcast_object_list(waves, src=0)
    return waves[0]


def write_wave(shards: ShardFolder, wave: list[int], groups: list[list[Rollout]], graded: Graded) -> None:
    """Each shard of the wave, one line a sample."""
    first = 0
    for shard in wave:
        rows = []
        last = first + len(shards.members(shard))
        for group, rewards, grades in zip(
            groups[first:last], graded.rewards[first:last].tolist(), graded.grades[first:last], strict=True
        ):
            rows += [
                sample_row(rollout, reward=reward, correct=grade.correct, extracted=grade.extracted)
                for rollout, reward, grade in zip(group, rewards, grades, strict=True)
            ]
        shards.write(shard, rows)
        first = last


def finish(run: StageRun, shards: ShardFolder) -> dict:
    """Pass rates, once every shard is there."""
    if not run.is_main or shards.missing():
        return {"shards": shards.count}
    rates = shards.finish()
    solved = sum(row["pass_rate"] for row in rates) / max(len(rates), 1)
    mixed = sum(0 < row["pass_rate"] < 1 for row in rates)
    run.log(f"{len(rates)} prompts, {shards.count} shards: pass rate {solved:.3f}, {mixed} prompts solved in part")
    return {"shards": shards.count, "prompts": len(rates), "pass_rate": solved, "mixed": mixed}


if __name__ == "__main__":
    run_stage(main)
