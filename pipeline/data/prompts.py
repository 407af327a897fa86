"""Problem rows of the preprocess stage as prompts for a rollout engine."""

from pathlib import Path
from typing import Any

from pipeline.artifacts import read_jsonl
from pipeline.data.templates import encode_prompt
from pipeline.errors import InputError
from pipeline.rollout.interface import Prompt
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
        raise InputError(f"{file} holds no problems; make it again: {run.command('preprocess')}")
    return prompts


def load_prompts(run: StageRun, tokenizer: Any) -> list[Prompt]:
    """The training prompts, filtered by their offline pass rates where `rl.min_pass_rate` or `rl.max_pass_rate` is set.

    Raises InputError where files are missing, or every prompt is filtered out.
    """
    prompts = read_prompts(run.root / "preprocess" / "train.jsonl", run, tokenizer)
    low, high = run.settings.rl.min_pass_rate, run.settings.rl.max_pass_rate
    if low is None and high is None:
        return prompts
    rates = {row["id"]: row["pass_rate"] for row in read_jsonl(run.root / "rollout" / "pass_rates.jsonl")}
    low, high = -1.0 if low is None else low, 2.0 if high is None else high
    kept = [prompt for prompt in prompts if prompt.id in rates and low < rates[prompt.id] < high]
    if not kept:
        raise InputError(
            f"no training prompt has an offline pass rate strictly between {low} and {high} ({len(rates)} of {len(prompts)} "
            "were measured by stage=rollout); widen rl.min_pass_rate and rl.max_pass_rate"
        )
    return kept


def load_eval_prompts(run: StageRun, tokenizer: Any, limit: int | None = None) -> dict[str, list[Prompt]]:
    """Every evaluation set by name. Raises InputError where there is none."""
    files = sorted((run.root / "preprocess" / "eval").glob("*.jsonl"))
    if not files:
        raise InputError(
            f"{run.root / 'preprocess' / 'eval'} holds no evaluation set; give one as data.eval_path.<name>=<file> and run "
            f"{run.command('preprocess')}"
        )
    return {file.stem: read_prompts(file, run, tokenizer, limit) for file in files}
