"""Reinforcement learning with verifiable rewards: generate, grade, update, on every rank in step (SPMD).

Each step samples `rl.prompts_per_step` groups of responses from the present policy, grades them in worker processes,
derives advantages and elastic bounds, and makes `rl.epochs * rl.minibatches` optimizer steps on them. A killed run goes on
from its last checkpoint with the same prompts, samples and minibatches that it would have had.
"""

import shutil
from typing import Any

import torch

from megatron_patches import session
from megatron_patches.engines.choose import build_engine, evaluation_sampling, sampling_of
from megatron_patches.model import checkpoint
from megatron_patches.training.actor import Actor
from megatron_patches.training.policy import Policy
from megatron_patches.training.policy_loss import MinibatchLoss, Objective, reduce_metrics
from pipeline.common import heartbeat
from pipeline.common.errors import DivergenceError, UsageError
from pipeline.data.prompts import load_eval_prompts, load_prompts
from pipeline.data.tokenizer import load as load_tokenizer
from pipeline.rl import kept_samples
from pipeline.rl.advantages import advantages_of
from pipeline.rl.checks import (
    CollapseWatch,
    SkipWatch,
    entropy_metric,
    is_due,
    lag_metrics,
    lags_of,
    mean_metrics,
    paid_metrics,
    rollout_metrics,
    samples_of,
    verify_metrics,
)
from pipeline.rl.collector import Collector, StepBatch
from pipeline.rl.evaluation import curve_point, measure
from pipeline.rl.experience import Experience, Samples, Signal, minibatches
from pipeline.rl.grading import Grader
from pipeline.rl.kept_samples import KeptStep
from pipeline.rl.prompt_sampler import PromptSampler
from pipeline.rl.utilization import active_parameters, peak_of, update_operations
from pipeline.rollout.gap import GapError, gap_by_lag, gap_metrics
from pipeline.run.catalog import HARMLESS, STAGES
from pipeline.run.manifests import State, flat
from pipeline.run.shapes import visited
from pipeline.settings import Model, Rl, Settings
from pipeline.settings.engine import sampled_elsewhere
from pipeline.stage import StageRun, run_stage
from pipeline.tracking import Tracker
from pipeline.tracking.drift import DriftWatch
from pipeline.tracking.profiler import Profiler
from pipeline.tracking.services import Services
from pipeline.tracking.values import number
from stages.export import write_model


def main(run: StageRun) -> dict:
    settings = session.start(run)
    rl = settings.rl
    folder = session.source_folder(run)
    tokenizer = load_tokenizer(folder)
    sampler = PromptSampler(load_prompts(run, tokenizer), rl.prompts_per_step, settings.seed)
    eval_sets = load_eval_prompts(run, tokenizer, settings.evaluate.limit) if rl.eval_every else {}
    actor = Actor(settings.model, settings.layout, rl, settings.rollout.temperature)
    done, state = load_actor(run, settings, actor)
    reference = load_reference(run, settings) if settings.algo.kl_coef else None
    actor.park()  # an engine measures the free memory as it starts
    engine = build_engine(settings, actor, tokenizer, str(folder))
    engine.sync(actor, done)
    elsewhere = sampled_elsewhere(settings)
    objective = Objective.of(settings.algo, rl, settings.rollout, elsewhere)
    sampling = sampling_of(settings, tokenizer)
    guarded = guarded_settings(run)
    saver = checkpoint.Saver(
        run.root / "checkpoints", settings.model, rl.keep_checkpoints, rl.keep_best, background=rl.async_save
    )

    with (
        Grader(settings.verify, settings.rollout.max_new_tokens) as grader,
        tracker_of(run, settings) as tracker,
        Collector(
            rl,
            sampler,
            engine,
            grader,
            sampling,
            tracker,
            settings.algo.dynamic_sampling,
            settings.rollout.partial_tokens,
        ) as collector,
    ):
        watch, skips = CollapseWatch(settings.model.vocab_size, settings.algo.reward_min), SkipWatch()
        tracker.resume(done)
        if run.is_main:
            kept_samples.forget_after(run.root, done)
        drift = DriftWatch(tracker.rows())  # a continued run is compared with its own first steps
        if state is not None:
            collector.load_state_dict(state)
        profiler = Profiler(settings.profile.steps, run.root / "profile", enabled=run.is_main)
        for step in range(done + 1, rl.steps + 1):
            profiler.begin(step)
            heartbeat.step(step)
            batch = collector.next()
            collector.look_ahead(steps_left=rl.steps - step)
            if not engine.independent:
                engine.sleep()  # the update needs the memory; sync wakes it
            actor.fetch()
            if rl.async_save:  # here too: rank 0 then names the last save during the update
                with tracker.phase("save"):
                    saver.poll()
            if run.is_main and rl.keep_samples:
                kept_samples.keep(run.root, step, KeptStep(batch, guarded, elsewhere), newest=rl.keep_samples)
            try:
                signal, metrics = learn(settings, actor, reference, objective, batch, step, tracker)
            except (DivergenceError, GapError):  # raised on every rank alike
                saver.finish()
                raise
            collector.wait()
            with tracker.phase("sync"):
                metrics |= engine.sync(actor, step)

            metrics |= collector.metrics(batch) | verify_metrics(grader) | paid_metrics(batch)
            if is_due(step, rl.eval_every):
                with tracker.phase("evaluate"):
                    greedy, sampled = evaluation_sampling(settings, tokenizer)
                    for name, prompts in eval_sets.items():
                        statistics, _ = measure(
                            settings.evaluate, engine, grader, greedy, sampled, name, prompts, settings.seed
                        )
                        metrics |= curve_point(name, statistics)
            tracker.samples(step, samples_of(batch, signal, rl.sample_rollouts))
            for warning in (*watch.see(metrics), *skips.see(step, metrics)):
                run.log(warning)
            for change in drift.see(step, metrics):
                run.log(f"WARNING: {change}. docs/verifier.md says what to look at. Shown once.")
            stopping = run.should_stop(last=step == rl.steps)
            for file in profiler.end(step):
                run.log(f"step {step} was profiled: {file}")
            tracker.log(step, metrics)  # first: a kill after the save must not cost the row, one before it is undone
            if rl.async_save:
                with tracker.phase("save"):
                    saver.poll()
            ending, exporting = stopping or step == rl.steps, is_due(step, rl.export_every)
            if ending or exporting or is_due(step, rl.save_every):
                with tracker.phase("save"):  # counts towards the next step's row
                    if not engine.independent:
                        engine.sleep()  # the state is copied to the host from the device
                    actor.fetch()
                    save_actor(run, saver, actor, collector, step, metrics)
                    if ending or exporting:
                        saver.finish()
                    if exporting:
                        export_actor(run, settings, actor, step)
                    if not engine.independent and not ending:
                        engine.sync(actor, step)
            if stopping:
                run.log(f"stopped after step {step}; the same command continues from there")
                break
    return {"step": step if done < rl.steps else done}


def learn(
    settings: Settings,
    actor: Actor,
    reference: Policy | None,
    objective: Objective,
    batch: StepBatch,
    step: int,
    tracker: Tracker,
) -> tuple[Signal, dict[str, Any]]:
    """From a graded batch to new weights: the part of a step that `stage=replay` makes again. Returns the step's signal and
    metrics. Raises GapError and DivergenceError."""
    samples = Samples.collect(batch.groups)
    signal, metrics = advantages_of(settings.algo, samples, batch.graded.rewards, settings.rl.counterfactual)
    needed = samples.select(signal.scored(objective.everything))
    scored = needed if objective.old_logprobs == "actor" else samples.select(signal.sample())
    with tracker.phase("logprobs"):
        if settings.rl.routing_replay == "actor" and scored is needed:
            actor_logp, entropy, needed = actor.record(scored)
        else:
            actor_logp, entropy = actor.logprobs_and_entropy(scored)
        ref_logp = reference.logprobs(needed) if reference is not None else None
    old_logp = {"actor": actor_logp, "engine": needed.rollout_logp, "none": None}[objective.old_logprobs]
    experience = Experience.of(needed, signal, old_logp, ref_logp, objective.everything)
    metrics |= rollout_metrics(batch) | lag_metrics(batch, version=step - 1)
    lags = lags_of(batch, scored, version=step - 1)
    metrics |= gap_metrics(settings.rollout, actor_logp, scored.rollout_logp, scored.raw_logp, same_weights=lags == 0)
    metrics |= gap_by_lag(actor_logp, scored.rollout_logp, lags)

    with tracker.phase("update"):
        metrics |= update(settings.rl, actor, experience, objective, step, (settings.seed * 1_000_003 + step) * 101)
    metrics |= {"speed/update_operations": settings.rl.epochs * operations_of(settings.model, needed)}
    return signal, metrics | entropy_metric(entropy, signal.token_weights(scored))


def tracker_of(run: StageRun, settings: Settings) -> Tracker:
    """The record of the run, with the trackers that `tracking` names."""
    names = settings.tracking.to if run.is_main else []
    tracking, config = settings.tracking, settings.model_dump(mode="json")
    services = Services.start(names, run.root, tracking.project, config, run.log, tracking.required)
    peak = peak_of(torch.cuda.get_device_name()) if torch.cuda.is_available() else None
    return Tracker(
        run.root, total_steps=settings.rl.steps, enabled=run.is_main, events="tensorboard" in settings.tracking.to,
        services=services, devices=run.world_size, peak=peak,
    )  # fmt: skip


def operations_of(model: Model, samples: Samples) -> float:
    """Floating-point operations of one pass over the sequences of a step."""
    active = active_parameters(model, visited(model))
    lengths = (len(p) + len(r) for p, r in zip(samples.prompts, samples.responses, strict=True))
    return update_operations(model, active, lengths)


def update(rl: Rl, actor: Actor, experience: Experience, objective: Objective, step: int, seed: int) -> dict[str, Any]:
    """`rl.epochs * rl.minibatches` optimizer steps on one batch; returns the metrics over all of them. `seed` decides which
    sequences each minibatch holds. Raises DivergenceError after too many skipped steps in a row."""
    done: list[MinibatchLoss] = []
    optimizer: list[dict[str, float]] = []
    count = rl.epochs * rl.minibatches
    for epoch in range(rl.epochs):
        for chosen in minibatches(len(experience.signal), rl.minibatches, seed + epoch):
            minibatch, optimizer_metrics = actor.update(experience, chosen, objective, followed=len(done) + 1 < count)
            actor.check_skipped(step)
            done.append(minibatch)
            optimizer.append(optimizer_metrics)
    return reduce_metrics(done) | mean_metrics(optimizer)


def load_actor(run: StageRun, settings: Settings, actor: Actor) -> tuple[int, dict[str, Any] | None]:
    """Fills `actor` from the run's newest whole checkpoint, or from `rl.load`, or from the converted base. Returns how many
    steps it has made, and the collector's state if it has made any.

    Raises:
        UsageError: the checkpoint was made under other settings.
    """
    root = run.root / "checkpoints"
    newest, wrong = checkpoint.newest_whole(root) if root.is_dir() else (None, [])
    if run.is_main:
        checkpoint.clear_unfinished(root)
    for text in wrong:
        run.log(f"WARNING: {text}; it is moved aside, and the run continues from step {newest}")
    if newest is None:
        start_actor(run, settings, actor)
        return 0, None
    common = checkpoint.load(root, newest, actor.chunks, settings.model, optimizer=actor.optimizer, checked=True)
    changes = State(guarded_settings(run), {}).changed_from({"config": common.get("settings", {})})
    extended = [change for change in changes if change.startswith("rl.steps ")]
    changes = [change for change in changes if change.split()[0] not in HARMLESS]
    if changes and "settings" in common:
        raise UsageError(
            f"{checkpoint.iteration_folder(root, newest)} was made under other settings: {'; '.join(changes)}.\n"
            "Give those settings to continue it, another name=... for a new run, or force=true to set it aside."
        )
    actor.scheduler.load_state_dict(common["scheduler"])
    run.log(f"continuing after step {newest} of {settings.rl.steps}")
    if extended and settings.rl.optimizer.decay != "constant":
        run.log(
            f"WARNING: {extended[0]}: rl.optimizer.decay={settings.rl.optimizer.decay} now ends at another step. The steps so "
            "far had other learning rates than in a run that had this length from the start"
        )
    return newest, common["collector"]


def start_actor(run: StageRun, settings: Settings, actor: Actor) -> None:
    """The weights of step 0: `rl.load`, with its optimizer state if that is wanted, or the converted base."""
    rl = settings.rl
    if rl.load is None:
        base, iteration = session.checkpoint_of(run, "before")
        checkpoint.load(base, iteration, actor.chunks, settings.model)
        actor.weights_changed()
        return
    folder = session.checkpoint_folder(run, rl.load)
    optimizer = actor.optimizer if rl.load_optimizer else None
    checkpoint.load_folder(folder, actor.chunks, settings.model, optimizer=optimizer)
    run.log(f"rl.load: {folder}: {checkpoint.contents(folder, actor.chunks, optimizer)}")
    if not rl.load_optimizer:
        actor.weights_changed()


def guarded_settings(run: StageRun) -> dict[str, Any]:
    """The settings that a checkpoint of the run belongs to; it keeps them, so that no other file decides."""
    return flat(run.settings, STAGES["rl"].settings)


def save_actor(
    run: StageRun, saver: checkpoint.Saver, actor: Actor, collector: Collector, step: int, metrics: dict[str, Any]
) -> None:
    """Everything that the run continues from after `step`."""
    common = {
        "scheduler": actor.scheduler.state_dict(),
        "collector": collector.state_dict(),
        "settings": guarded_settings(run),
    }
    score = number(metrics.get(saver.keep_best or ""))
    saver.save(step, actor.chunks, optimizer=actor.optimizer, common=common, score=score)


def export_actor(run: StageRun, settings: Settings, actor: Actor, step: int) -> None:
    """Writes the weights to `exports/step_<n>`, a Hugging Face folder, and deletes those whose checkpoint is gone."""
    root = run.root / "exports"
    write_model(run, settings, actor.chunks, root / f"step_{step}")
    if run.is_main:
        kept = {f"step_{iteration}" for iteration in checkpoint.iterations(run.root / "checkpoints")}
        for folder in root.iterdir():
            if folder.name not in kept:
                shutil.rmtree(folder, ignore_errors=True)


def load_reference(run: StageRun, settings: Settings) -> Policy:
    """The frozen base, for the KL penalty."""
    free = settings.rl.model_copy(update={"routing_replay": "none"})  # it visits the experts that it was trained with
    policy = Policy(settings.model, settings.layout, free, settings.rollout.temperature)
    base, iteration = session.checkpoint_of(run, "before")
    checkpoint.load(base, iteration, policy.chunks, settings.model)
    for chunk in policy.chunks:
        chunk.requires_grad_(False)
    return policy


if __name__ == "__main__":
    torch.set_float32_matmul_precision("highest")
    run_stage(main)
