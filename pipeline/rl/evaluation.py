"""Held-out accuracy of an engine's current weights: greedy, avg@k and unbiased pass@k, with bootstrap intervals."""

from typing import Any

from pipeline.rl.grading import Graded, Grader
from pipeline.rollout.interface import Groups, Prompt, RolloutEngine, Sampling
from pipeline.settings import Evaluate
from pipeline.tracking.statistics import response_shape, summarise


def measure(
    evaluate: Evaluate,
    engine: RolloutEngine,
    grader: Grader,
    greedy: Sampling,
    sampled: Sampling,
    prompts: list[Prompt],
    seed: int,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Measures one set of problems. Every rank calls it and gets the same result.

    Returns statistics, and rows for the report. `seed` is that of the bootstrap.
    """
    first = engine.generate(prompts, 1, greedy, on_finish=grader.early)
    graded_first = grader.grade(first)
    groups = engine.generate(prompts, evaluate.k, sampled, on_finish=grader.early)
    graded = grader.grade(groups)
    statistics = summarise(
        graded.correct.numpy(), graded_first.correct[:, 0].numpy(), bootstrap=evaluate.bootstrap, seed=seed
    )
    rollouts = [rollout for group in groups for rollout in group]
    statistics |= response_shape([r.text for r in rollouts], [len(r.token_ids) for r in rollouts])
    statistics["truncated"] = sum(r.finish_reason == "length" for r in rollouts) / len(rollouts)
    if grader.judge is not None:
        statistics["judged"] = sum(grade.layer == "judge" for row in graded.grades for grade in row) / len(rollouts)
    return statistics, _rows(first, groups, graded_first, graded, evaluate.samples)


def curve_point(k: int, name: str, statistics: dict[str, Any]) -> dict[str, float]:
    """Selects the statistics that a training step logs: `eval/<set>/greedy`, avg@k and pass@k."""
    return {f"eval/{name}/{key}": float(statistics[key]) for key in ("greedy", f"avg@{k}", f"pass@{k}")}


def _rows(first: Groups, groups: Groups, graded_first: Graded, graded: Graded, count: int) -> list[dict[str, Any]]:
    """Makes rows of the first `count` problems with their greedy and sampled responses."""
    rows = []
    for i in range(min(count, len(groups))):
        prompt = groups[i][0].prompt
        responses = [
            {
                "text": rollout.text,
                "correct": grade.correct,
                "extracted": grade.extracted,
                "finish_reason": rollout.finish_reason,
                "greedy": is_greedy,
            }
            for is_greedy, group, grades in (
                (True, first[i], graded_first.grades[i]),
                (False, groups[i], graded.grades[i]),
            )
            for rollout, grade in zip(group, grades, strict=True)
        ]
        rows.append({"prompt_id": prompt.id, "problem": prompt.text, "gold": prompt.gold, "responses": responses})
    return rows
