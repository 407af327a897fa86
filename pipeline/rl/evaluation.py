"""Held-out accuracy of an engine's current weights: greedy, avg@k, unbiased pass@k and maj@k, with bootstrap intervals."""

from typing import Any

from pipeline.rl.grading import Graded, Grader
from pipeline.rl.majority import majority_right
from pipeline.rollout.interface import Groups, Prompt, RolloutEngine, Sampling
from pipeline.rollout.progress import OfflineProgress
from pipeline.settings import Evaluate, Settings
from pipeline.settings.ready_sets import READY_SETS
from pipeline.tracking.statistics import response_shape, summarise


def measure(
    evaluate: Evaluate,
    engine: RolloutEngine,
    grader: Grader,
    greedy: Sampling,
    sampled: Sampling,
    name: str,
    prompts: list[Prompt],
    seed: int,
    show: bool = False,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Measures the set `name`. Every rank calls it and gets the same result.

    Returns statistics, and a row for each problem. `seed` is that of the bootstrap. `show` on one rank shows the progress.
    """
    k = samples_of(evaluate, name)
    with OfflineProgress(len(prompts) * (1 + k), label=f"evaluate {name}", enabled=show) as progress:
        first = _generate(engine, prompts, 1, greedy, grader, progress)
        graded_first = grader.grade(first)
        groups = _generate(engine, prompts, k, sampled, grader, progress)
        graded = grader.grade(groups)
    statistics = summarise(
        graded.correct.numpy(),
        graded_first.correct[:, 0].numpy(),
        majority_right(graded.grades, grader.equal),
        bootstrap=evaluate.bootstrap,
        seed=seed,
    )
    rollouts = [rollout for group in groups for rollout in group]
    statistics |= response_shape([r.text for r in rollouts], [len(r.token_ids) for r in rollouts])
    statistics["truncated"] = sum(r.finish_reason == "length" for r in rollouts) / len(rollouts)
    if grader.judge is not None:
        statistics["judged"] = sum(grade.layer == "judge" for row in graded.grades for grade in row) / len(rollouts)
    return statistics, _rows(first, groups, graded_first, graded)


def samples_of(evaluate: Evaluate, name: str) -> int:
    """Samples for each problem of a set."""
    return evaluate.k_of.get(name, evaluate.k)


def protocol_of(settings: Settings, name: str, problems: int) -> dict[str, Any]:
    """What an accuracy depends on beside the model: two numbers can be compared if these are equal."""
    evaluate, rollout, data, verify = settings.evaluate, settings.rollout, settings.data, settings.verify
    return {
        "problems": problems,
        "k": samples_of(evaluate, name),
        "temperature": evaluate.temperature,
        "top_p": evaluate.top_p,
        "max_prompt_tokens": rollout.max_prompt_tokens,
        "max_new_tokens": rollout.max_new_tokens,
        "stop": list(rollout.stop),
        "template": data.template,
        "instruction": data.instruction,
        "system_prompt": data.system_prompt,
        "num_fewshot": 0,
        "verify_form": verify.form,
        "verify_judge": verify.judge_model if verify.judge else None,
        "dtype": settings.model.dtype,
        "seed": settings.seed,
    }


def describe(protocol: dict[str, Any]) -> str:
    """A protocol in one line."""
    return (
        f"{protocol['problems']:,} problems, greedy and {protocol['k']} samples each at temperature {protocol['temperature']:g}"
        f", top_p {protocol['top_p']:g}; up to {protocol['max_prompt_tokens']:,} + {protocol['max_new_tokens']:,} tokens; "
        f"template {protocol['template']}; answers: form={protocol['verify_form']}"
    )


def differences(name: str, protocol: dict[str, Any]) -> list[str]:
    """What of a protocol differs from the usual one of a known set, in a line; none for other sets."""
    if name not in READY_SETS:
        return []
    usual = READY_SETS[name]
    found = [
        f"{key}={protocol[key]:g} (usual: {value:g})"
        for key, value in (
            ("problems", usual.problems),
            ("k", usual.k),
            ("temperature", usual.temperature),
            ("top_p", usual.top_p),
        )
        if protocol[key] != value
    ]
    if protocol["max_new_tokens"] < usual.max_new_tokens:
        found.append(f"max_new_tokens={protocol['max_new_tokens']} (usual: {usual.max_new_tokens})")
    if protocol["template"] != "bare" and "boxed" not in protocol["instruction"]:
        found.append("an instruction that does not ask for a box")
    if protocol["template"] == "bare":
        found.append("no instruction (template=bare)")
    if not found:
        return [f"usual protocol, reported as {usual.headline}"]
    return [f"not the usual protocol, so do not compare with published numbers: {', '.join(found)}"]


def curve_point(name: str, statistics: dict[str, Any]) -> dict[str, float]:
    """Selects the statistics that a training step logs: `eval/<set>/greedy`, avg@k and pass@k."""
    k = statistics["k"]
    return {f"eval/{name}/{key}": float(statistics[key]) for key in ("greedy", f"avg@{k}", f"pass@{k}")}


def _generate(
    engine: RolloutEngine, prompts: list[Prompt], k: int, sampling: Sampling, grader: Grader, progress: OfflineProgress
) -> Groups:
    progress.begin(len(prompts) * k)
    groups = engine.generate(prompts, k, sampling, on_finish=grader.early, on_progress=progress.show)
    progress.end(groups)
    return groups


def _rows(first: Groups, groups: Groups, graded_first: Graded, graded: Graded) -> list[dict[str, Any]]:
    """Makes a row of each problem with its greedy and sampled responses."""
    rows = []
    for i in range(len(groups)):
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
