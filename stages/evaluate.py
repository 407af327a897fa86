"""Held-out accuracy of the base or the trained actor: greedy, avg@k and unbiased pass@k, with bootstrap intervals."""

import time

from megatron_patches import session
from megatron_patches.engines.choose import build_engine, evaluation_sampling
from megatron_patches.model import checkpoint
from megatron_patches.training.policy import Policy
from pipeline.common.files import write_json, write_jsonl
from pipeline.data.prompts import load_eval_prompts
from pipeline.data.tokenizer import load as load_tokenizer
from pipeline.rl.evaluation import measure
from pipeline.rl.grading import Grader
from pipeline.run.catalog import variant_of
from pipeline.stage import StageRun, run_stage


def main(run: StageRun) -> dict:
    started = time.time()
    settings = session.start(run)
    folder = session.source_folder(run)
    tokenizer = load_tokenizer(folder)
    sets = load_eval_prompts(run, tokenizer, settings.evaluate.limit)
    root, iteration = session.checkpoint_of(run, settings.evaluate.checkpoint)
    policy = Policy(settings.model, settings.layout, settings.rl, settings.rollout.temperature)
    checkpoint.load(root, iteration, policy.chunks, settings.model)
    engine = build_engine(settings, policy, tokenizer, str(folder))
    engine.sync(policy, iteration)

    when = variant_of(settings)
    results, samples = {}, []
    with Grader(settings.verify, settings.rollout.max_new_tokens) as grader:
        for name, prompts in sets.items():
            run.log(f"{name}: {len(prompts)} problems, greedy and {settings.evaluate.k} samples each")
            greedy, sampled = evaluation_sampling(settings, tokenizer)
            results[name], some = measure(settings.evaluate, engine, grader, greedy, sampled, prompts, settings.seed)
            samples += [{"set": name} | row for row in some]
            shown = ("greedy", f"avg@{settings.evaluate.k}", f"pass@{settings.evaluate.k}", "direct_share", "truncated")
            figures = "  ".join(f"{key} {results[name][key]:.3f}" for key in shown)
            tokens = results[name]["response_tokens"]
            run.log(f"{name}: {figures}  response_tokens {tokens:.1f}  (answers: form={settings.verify.form})")
    if run.is_main:
        source = str(checkpoint.iteration_folder(root, iteration))
        write_json(
            run.folder() / f"{when}.json",
            {
                "checkpoint": source,
                "verify_form": settings.verify.form,
                "verify_judge": settings.verify.judge_model if settings.verify.judge else None,
                "sets": results,
                "seconds": time.time() - started,
            },
        )
        write_jsonl(run.folder() / f"{when}.samples.jsonl", samples)
    return {"checkpoint": str(root), "iteration": iteration}


if __name__ == "__main__":
    run_stage(main)
