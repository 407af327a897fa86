"""Problem rows of the preprocess stage as prompts for a rollout engine."""

from pathlib import Path
from typing import Any

from pipeline.common.errors import InputError
from pipeline.common.files import read_json, read_jsonl
from pipeline.data.templates import encode_prompt
from pipeline.rollout.interface import Prompt
from pipeline.rollout.shards import prompts_digest
from pipeline.stage import StageRun


def read_prompts(file: Path, run: StageRun, tokenizer: Any, limit: int | None = None) -> list[Prompt]:
    """Prompts of one file of problem rows, in its order, at most `limit`. Raises InputError where it is missing or empty."""
    prompts: list[Prompt] = []
    for row in read_jsonl(file):
        if limit is not None and len(prompts) == limit:
            break
        ids = encode_prompt(row["problem"], run.settings.data, tokenizer)
        prompts.append(Prompt(id=str(row["id"]), token_ids=ids, gold=str(row["answer"]), text=row["problem"]))
    if not prompts:
        raise InputError(f"{file} holds no problems. Make it again: {run.command('preprocess')}")
    return prompts


def load_prompts(run: StageRun, tokenizer: Any) -> list[Prompt]:
    """The training prompts, filtered by their offline pass rates where `rl.min_pass_rate` or `rl.max_pass_rate` is set.

    Raises InputError where files are missing, the pass rates are of other prompts, or every prompt is filtered out.
    """
    prompts = read_prompts(run.root / "preprocess" / "train.jsonl", run, tokenizer)
    low, high = run.settings.rl.min_pass_rate, run.settings.rl.max_pass_rate
    if low is None and high is None:
        return prompts
    rates = read_pass_rates(run, prompts)
    too_hard = sum(low is not None and rate <= low for rate in rates)
    too_easy = sum(high is not None and rate >= high for rate in rates)
    kept = [
        prompt
        for prompt, rate in zip(prompts, rates, strict=True)
        if (low is None or rate > low) and (high is None or rate < high)
    ]
    parts = [f"{too_hard} are at or below rl.min_pass_rate={low:g}"] if low is not None else []
    parts += [f"{too_easy} at or above rl.max_pass_rate={high:g}"] if high is not None else []
    found = f"of {len(prompts)} training prompts, by their offline pass rates, {' and '.join(parts)}"
    if not kept:
        raise InputError(
            f"No prompt is left to train on: {found}. Widen the bounds; measure with more samples "
            f"(rollout.offline_group_size=) or a better model: {run.command('rollout')}"
        )
    run.log(f"{found}: {len(kept)} kept")
    if len(kept) < run.settings.rl.prompts_per_step:
        run.log(f"WARNING: fewer than rl.prompts_per_step={run.settings.rl.prompts_per_step}: a batch repeats prompts")
    return kept


def read_pass_rates(run: StageRun, prompts: list[Prompt]) -> list[float]:
    """The offline pass rate of each of `prompts`, as stage=rollout measured it.

    Raises InputError where its files are missing or damaged, or were made of other prompts: other problems under the same
    ids, another template or tokenizer, an evaluation set.
    """
    folder = run.root / "rollout"
    path, again = folder / "pass_rates.jsonl", f"Measure them: {run.command('rollout')}"
    if not path.exists() or not (folder / "plan.json").exists():
        raise InputError(f"rl.min_pass_rate and rl.max_pass_rate need {path}, which does not exist. {again}")
    rates: dict[str, float] = {
        row["id"]: row["pass_rate"] for row in read_jsonl(path) if {"id", "pass_rate"} <= row.keys()
    }
    missing = [prompt.id for prompt in prompts if prompt.id not in rates]
    if missing:
        raise InputError(
            f"{path} has no pass rate for {len(missing)} of {len(prompts)} training prompts ({missing[0]!r} is one): it "
            f"belongs to another data set, or to an evaluation set (rollout.offline_split). {again} force=true"
        )
    if read_json(folder / "plan.json").get("prompts") != prompts_digest(prompts):
        raise InputError(
            f"{path} has the ids of the training prompts, but was measured on other prompts: other problems, another "
            f"template or another tokenizer. {again} force=true"
        )
    return [rates[prompt.id] for prompt in prompts]


def load_eval_prompts(
    run: StageRun, tokenizer: Any, limit: int | None = None, folder: Path | None = None
) -> dict[str, list[Prompt]]:
    """Every evaluation set in `folder` by name; without one, those of the run. Raises InputError if there are none."""
    files = sorted((folder or run.root / "preprocess" / "eval").glob("*.jsonl"))
    if not files:
        raise InputError(
            f"{run.root / 'preprocess' / 'eval'} holds no evaluation set. Give one as data.eval_path.<name>=<file> and run "
            f"{run.command('preprocess')}"
        )
    return {file.stem: read_prompts(file, run, tokenizer, limit) for file in files}
