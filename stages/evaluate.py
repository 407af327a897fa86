"""Held-out accuracy of the base or the trained actor: greedy, avg@k, unbiased pass@k and maj@k, with bootstrap intervals."""

import time
from pathlib import Path
from typing import Any

from megatron_patches import session
from megatron_patches.engines.choose import build_engine, evaluation_sampling
from megatron_patches.model import checkpoint
from megatron_patches.model.checkpoint_folder import SUMS
from megatron_patches.training.policy import Policy
from pipeline.common.files import write_json, write_jsonl
from pipeline.data.measured_sets import prepare
from pipeline.data.prompts import load_eval_prompts
from pipeline.data.tokenizer import load as load_tokenizer
from pipeline.rl.evaluation import describe, differences, measure, protocol_of
from pipeline.rl.evaluation_files import write_files
from pipeline.rl.evaluation_parts import Parts
from pipeline.rl.grading import Grader
from pipeline.rollout.shards import prompts_digest
from pipeline.run.catalog import variant_of
from pipeline.run.manifests import fingerprint
from pipeline.run.summary import revision, versions
from pipeline.settings import Settings
from pipeline.stage import StageRun, run_stage


def main(run: StageRun) -> dict:
    started = time.time()
    folder = session.source_folder(run)
    sets_folder, trained_on = None, {}
    if run.settings.evaluate.other_sets:
        sets_folder = run.folder() / "sets" / variant_of(run.settings)
        if run.is_main:  # the others wait for it in `start`
            trained_on = prepare(run, sets_folder, load_tokenizer(folder))
    settings = session.start(run)
    tokenizer = load_tokenizer(folder)
    sets = load_eval_prompts(run, tokenizer, settings.evaluate.limit, sets_folder)
    root, iteration = session.checkpoint_of(run, settings.evaluate.checkpoint)
    policy = Policy(settings.model, settings.layout, settings.rl, settings.rollout.temperature)
    checkpoint.load(root, iteration, policy.chunks, settings.model)
    engine = build_engine(settings, policy, tokenizer, str(folder))
    engine.sync(policy, iteration)

    results: dict[str, Any] = {}
    protocols = {name: protocol_of(settings, name, len(prompts)) for name, prompts in sets.items()}
    rows: dict[str, list[dict[str, Any]]] = {}
    parts = parts_of(run, settings, checkpoint.iteration_folder(root, iteration))
    identities = {name: protocols[name] | {"prompts": prompts_digest(prompts)} for name, prompts in sets.items()}
    done = {name: parts.read(name, identities[name]) for name in sets}  # before any rank writes one
    with Grader(settings.verify, settings.rollout.max_new_tokens) as grader:
        for name, prompts in sets.items():
            run.log(f"{name}: {describe(protocols[name])}")
            for line in differences(name, protocols[name]):
                run.log(f"{name}: {line}")
            measured = done[name]
            if measured is None:
                greedy, sampled = evaluation_sampling(settings, tokenizer)
                measured = measure(
                    settings.evaluate, engine, grader, greedy, sampled, name, prompts, settings.seed, show=run.is_main
                )
                if run.is_main:
                    parts.write(name, identities[name], *measured)
            else:
                run.log(f"{name}: was measured before this command was stopped")
            results[name], rows[name] = measured
            if name in trained_on:
                results[name]["in_training"] = trained_on[name]
            run.log(f"{name}: {figures(results[name])}  (answers: form={settings.verify.form})")
    if run.is_main:
        write(run, str(checkpoint.iteration_folder(root, iteration)), results, protocols, rows, time.time() - started)
        parts.clear()
    return {"checkpoint": str(root), "iteration": iteration}


def parts_of(run: StageRun, settings: Settings, source: Path) -> Parts:
    """The sets that an earlier, killed start of the same evaluation has measured."""
    folder = run.folder() / "parts" / variant_of(settings)
    # The sums of a checkpoint's files travel with it; a copy changes the files' times.
    holds = fingerprint(source / SUMS) or fingerprint(source)
    identity = {"checkpoint": source.name, "holds": holds, "verify": settings.verify.model_dump(mode="json")}
    parts = Parts(folder, identity | {"bootstrap": settings.evaluate.bootstrap})
    if settings.force and run.is_main:
        parts.clear()
    return parts


def figures(entry: dict[str, Any]) -> str:
    """The key figures of a set in one line."""
    k = entry["k"]
    shown = ("greedy", f"avg@{k}", f"pass@{k}", f"maj@{k}", "direct_share", "truncated")
    return "  ".join([*(f"{key} {entry[key]:.3f}" for key in shown), f"response_tokens {entry['response_tokens']:.1f}"])


def write(
    run: StageRun,
    source: str,
    results: dict[str, Any],
    protocols: dict[str, Any],
    rows: dict[str, list[dict[str, Any]]],
    seconds: float,
) -> None:
    """Writes `<when>.json` and its samples for the report, and the folder `<when>/` with every problem."""
    settings, when = run.settings, variant_of(run.settings)
    write_json(
        run.folder() / f"{when}.json",
        {
            "checkpoint": source,
            "verify_form": settings.verify.form,
            "verify_judge": settings.verify.judge_model if settings.verify.judge else None,
            "protocol": protocols,
            "sets": results,
            "seconds": seconds,
        },
    )
    most = settings.evaluate.samples
    some = [{"set": name} | row for name, problems in rows.items() for row in problems[:most]]
    write_jsonl(run.folder() / f"{when}.samples.jsonl", some)
    about = {
        "model_source": "etr",
        "model_name": settings.model.path or settings.model_name,
        "config": {"model": settings.model_name, "model_args": source, "random_seed": settings.seed},
        "git_hash": revision(),
        "package_versions": versions(),
        "total_evaluation_time_seconds": str(seconds),
    }
    write_files(run.folder() / when, results, protocols, rows, about)


if __name__ == "__main__":
    run_stage(main)
