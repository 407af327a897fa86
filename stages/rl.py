"""Reinforcement learning with verifiable rewards: generate, grade, update, on every rank in step (SPMD).

Each step samples `rl.prompts_per_step` groups of responses from the present policy, grades them in worker processes,
derives advantages and elastic bounds, and makes `rl.epochs * rl.minibatches` optimizer steps on them. A killed run goes on
from its last checkpoint with the same prompts, samples and minibatches that it would have had.
"""

import torch

from megatron_patches import checkpoint, session
from megatron_patches.actor import Actor
from megatron_patches.engines import build_engine, chosen_engine, sampling_of
from megatron_patches.policy import Policy
from megatron_patches.policy_loss import MinibatchLoss, PolicyLoss, reduce_metrics
from pipeline.data.prompts import load_prompts
from pipeline.data.sampler import PromptSampler
from pipeline.data.tokenizer import load as load_tokenizer
from pipeline.experience import minibatches
from pipeline.grading import Grader
from pipeline.judging import judge
from pipeline.settings import Settings
from pipeline.stage import StageRun, run_stage
from pipeline.steps import collect_groups, gap_metrics, is_due, mean_metrics, rollout_metrics, samples_of
from pipeline.tracking import Tracker


def main(run: StageRun) -> dict:
    settings = session.start(run)
    rl = settings.rl
    folder = session.source_folder(run)
    tokenizer = load_tokenizer(folder)
    sampler = PromptSampler(load_prompts(run, tokenizer), rl.prompts_per_step, settings.seed)
    actor, done = load_actor(run, settings, sampler)
    reference = load_reference(run, settings) if settings.algo.kl_coef else None
    engine = build_engine(settings, actor, tokenizer, str(folder))
    engine.sync(actor, done)
    loss = PolicyLoss(settings, sampled_elsewhere=chosen_engine(settings) != "native" or rl.async_depth > 0)
    sampling = sampling_of(settings, tokenizer)

    with Grader(settings) as grader, Tracker(run.root, total_steps=rl.steps, enabled=run.is_main) as tracker:
        tracker.resume(done)
        for step in range(done + 1, rl.steps + 1):
            groups, graded = collect_groups(settings, sampler, engine, grader, sampling, tracker)
            experience, metrics = judge(settings.algo, groups, graded.rewards)
            with tracker.phase("logprobs"):
                experience.old_logp = actor.logprobs(experience)
                if reference is not None:
                    experience.ref_logp = reference.logprobs(experience)
            metrics |= gap_metrics(settings, experience)

            with tracker.phase("update"):
                updates: list[MinibatchLoss] = []
                optim: list[dict[str, float]] = []
                for epoch in range(rl.epochs):
                    order_seed = (settings.seed * 1_000_003 + step) * 101 + epoch
                    for chosen in minibatches(len(experience), rl.minibatches, order_seed):
                        update, optimizer_metrics = actor.update(experience, chosen, loss)
                        updates.append(update)
                        optim.append(optimizer_metrics)
                metrics |= reduce_metrics(updates) | mean_metrics(optim)
            with tracker.phase("sync"):
                metrics |= engine.sync(actor, step)

            metrics |= rollout_metrics(groups, graded, grader)
            tracker.samples(step, samples_of(groups, graded, experience, rl.sample_rollouts))
            stopping = run.should_stop()
            if stopping or is_due(step, rl.save_every) or step == rl.steps:
                with tracker.phase("save"):
                    save_actor(run, settings, actor, sampler, step)
            tracker.log(step, metrics)
            if stopping:
                run.log(f"stopped after step {step}; the same command continues from there")
                break
    return {"step": step if done < rl.steps else done}


def load_actor(run: StageRun, settings: Settings, sampler: PromptSampler) -> tuple[Actor, int]:
    """The actor at the run's newest checkpoint, or at the converted base; and how many steps it has made."""
    actor = Actor(settings)
    root = run.root / "checkpoints"
    newest = checkpoint.latest_iteration(root) if root.is_dir() else None
    if newest is None:
        base, iteration = session.checkpoint_of(run, "before")
        checkpoint.load(base, iteration, actor.chunks, settings.model)
        actor.weights_changed()
        return actor, 0
    common = checkpoint.load(root, newest, actor.chunks, settings.model, optimizer=actor.optimizer)
    actor.scheduler.load_state_dict(common["scheduler"])
    sampler.load_state_dict(common["sampler"])
    run.log(f"continuing after step {newest} of {settings.rl.steps}")
    return actor, newest


def save_actor(run: StageRun, settings: Settings, actor: Actor, sampler: PromptSampler, step: int) -> None:
    common = {"scheduler": actor.scheduler.state_dict(), "sampler": sampler.state_dict()}
    keep = settings.rl.keep_checkpoints
    checkpoint.save(
        run.root / "checkpoints",
        step,
        actor.chunks,
        settings.model,
        optimizer=actor.optimizer,
        common=common,
        keep=keep,
    )


def load_reference(run: StageRun, settings: Settings) -> Policy:
    """The frozen base, for the KL penalty."""
    policy = Policy(settings)
    base, iteration = session.checkpoint_of(run, "before")
    checkpoint.load(base, iteration, policy.chunks, settings.model)
    for chunk in policy.chunks:
        chunk.requires_grad_(False)
    return policy


if __name__ == "__main__":
    torch.set_float32_matmul_precision("highest")
    run_stage(main)
