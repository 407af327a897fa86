"""Held-out accuracy of the base and of the trained actor: greedy, avg@k and unbiased pass@k, with bootstrap intervals."""

import time

from megatron_patches import checkpoint, session
from megatron_patches.engines import build_engine, sampling_of
from megatron_patches.policy import Policy
from pipeline.artifacts import write_json, write_jsonl
from pipeline.catalog import variant_of
from pipeline.data.prompts import load_eval_prompts
from pipeline.data.tokenizer import load as load_tokenizer
from pipeline.grading import Graded, Grader
from pipeline.rollout.interface import Prompt, RolloutEngine
from pipeline.settings import Settings
from pipeline.stage import StageRun, run_stage
from pipeline.steps import Groups
from pipeline.tracking.statistics import response_shape, summarise


def main(run: StageRun) -> dict:
    started = time.time()
    settings = session.start(run)
    folder = session.source_folder(run)
    tokenizer = load_tokenizer(folder)
    sets = load_eval_prompts(run, tokenizer, settings.evaluate.limit)
    root, iteration = session.checkpoint_of(run, settings.evaluate.checkpoint)
    policy = Policy(settings)
    checkpoint.load(root, iteration, policy.chunks, settings.model)
    engine = build_engine(settings, policy, tokenizer, str(folder))
    engine.sync(policy, iteration)

    when = variant_of(settings)
    results, samples = {}, []
    with Grader(settings) as grader:
        for name, prompts in sets.items():
            run.log(f"{name}: {len(prompts)} problems, greedy and {settings.evaluate.k} samples each")
            results[name], some = measure(settings, engine, grader, tokenizer, prompts)
            samples += [{"set": name} | row for row in some]
            shown = {key: value for key, value in results[name].items() if not key.endswith("_ci")}
            run.log(f"{name}: " + "  ".join(f"{key} {value:.3f}" for key, value in shown.items() if key != "n"))
    if run.is_main:
        source = str(checkpoint.iteration_folder(root, iteration))
        write_json(
            run.folder() / f"{when}.json", {"checkpoint": source, "sets": results, "seconds": time.time() - started}
        )
        write_jsonl(run.folder() / f"{when}.samples.jsonl", samples)
    return {"checkpoint": str(root), "iteration": iteration}


def measure(
    settings: Settings, engine: RolloutEngine, grader: Grader, tokenizer, prompts: list[Prompt]
) -> tuple[dict, list[dict]]:
    """Statistics of one set, and rows for the report."""
    chosen = settings.evaluate
    greedy = engine.generate(prompts, 1, sampling_of(settings, tokenizer, temperature=0.0, top_p=1.0, top_k=0))
    sampled = engine.generate(
        prompts, chosen.k, sampling_of(settings, tokenizer, temperature=chosen.temperature, top_p=chosen.top_p, top_k=0)
    )
    graded_greedy, graded = grader.grade(greedy), grader.grade(sampled)
    statistics = summarise(
        graded.correct.numpy(), graded_greedy.correct[:, 0].numpy(), bootstrap=chosen.bootstrap, seed=settings.seed
    )
    rollouts = [rollout for group in sampled for rollout in group]
    statistics |= response_shape([r.text for r in rollouts], [len(r.token_ids) for r in rollouts])
    statistics["truncated"] = sum(r.finish_reason == "length" for r in rollouts) / len(rollouts)
    return statistics, rows_of(greedy, sampled, graded_greedy, graded, chosen.samples)


def rows_of(greedy: Groups, sampled: Groups, graded_greedy: Graded, graded: Graded, count: int) -> list[dict]:
    """The first `count` problems with their greedy and sampled responses."""
    rows = []
    for i in range(min(count, len(sampled))):
        prompt = sampled[i][0].prompt
        responses = [
            {
                "text": r.text,
                "correct": g.correct,
                "extracted": g.extracted,
                "finish_reason": r.finish_reason,
                "greedy": first,
            }
            for first, group, grades in (
                (True, greedy[i], graded_greedy.grades[i]),
                (False, sampled[i], graded.grades[i]),
            )
            for r, g in zip(group, grades, strict=True)
        ]
        rows.append({"prompt_id": prompt.id, "problem": prompt.text, "gold": prompt.gold, "responses": responses})
    return rows


if __name__ == "__main__":
    run_stage(main)
