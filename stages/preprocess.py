"""Raw problems -> training prompts, warm-up rows, evaluation sets and the tokenizer.

The embedded problems are generated. Files are read and cleaned, copies and problems of the evaluation sets are dropped, the
tokenizer is trained or copied, and prompts that are too long are dropped. `quarantine.jsonl` and `dropped.jsonl` record every
other row.
"""

import os
import shutil
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from pipeline.common.errors import InputError, UsageError
from pipeline.common.files import write_jsonl
from pipeline.data import arithmetic, tokenizer
from pipeline.data.answers import response_of
from pipeline.data.contamination import EvaluationIndex
from pipeline.data.duplicates import repeated, repeated_examples, similar
from pipeline.data.intake import Intake
from pipeline.data.intake_report import file_table, notes, numbers
from pipeline.data.ready import counts_differ, with_files
from pipeline.data.rows import Problem, problem_row
from pipeline.data.templates import encode_prompt
from pipeline.models.folders import check_folder
from pipeline.run.checks import check_problems
from pipeline.settings import Settings
from pipeline.stage import StageRun, run_stage
from pipeline.tracking.progress import Progress, is_terminal

LARGEST_CORPUS = 20_000_000
"""Characters that a tokenizer is trained on: more change its pieces hardly and cost minutes."""
MANY = 20_000
"""Problems from which a step over all of them takes more than a few seconds."""


def main(run: StageRun) -> dict[str, Any]:
    return from_generator(run) if run.settings.data.source == "arithmetic" else from_files(run)


def from_generator(run: StageRun) -> dict[str, Any]:
    settings = run.settings
    made = arithmetic.generate(settings.data.arithmetic, settings.seed)
    files = {"train": made.train, "eval/held_out": made.held_out, "sft": made.sft, "sft_mixed": made.sft_mixed}
    counts = {name: write_jsonl(run.folder() / f"{name}.jsonl", rows) for name, rows in files.items()}
    words = tokenizer.prepare(
        settings, (row["problem"] + row["response"] for row in made.sft), run.folder() / "tokenizer"
    )
    longest = max(len(encode_prompt(row["problem"], settings.data, words)) for row in made.train)

    table = Table("file", "rows", title="preprocess")
    for name, count in counts.items():
        table.add_row(f"{name}.jsonl", str(count))
    Console().print(table)
    run.log(f"tokenizer of {len(words)} pieces; the longest prompt has {longest} tokens")
    return {"rows": counts, "sources": dict(Counter(row["source"] for row in made.train))}


def from_files(run: StageRun) -> dict[str, Any]:
    settings, data = run.settings, run.settings.data
    check_problems(settings)
    check_training_problems(settings)
    if data.tokenizer == "model" and settings.model.path is not None:  # later stages would refuse it, hours later
        check_folder(Path(settings.model.path), settings.model)
    intake = Intake(with_files(data, run.folder() / "published"))
    try:
        evaluation = {name: intake.evaluation(name) for name in sorted(data.eval_path)}
        sizes = {name: len(problems) for name, problems in evaluation.items()}
        train, examples = intake.train(), intake.examples()

        train = intake.drop(train, repeated(train))
        with shown(len(train), "near duplicates") as progress:
            train = intake.drop(train, similar(train, data.clean.near_duplicate_threshold, progress.reach))
        examples = intake.drop(examples, repeated_examples(examples))
        index = EvaluationIndex(evaluation, data.clean.decontaminate_ngram)
        with shown(len(train), "decontamination") as progress:
            train = intake.drop(train, index.contaminated(train, data.clean.decontaminate_common, progress.reach))
            examples = intake.drop(examples, index.contaminated(examples, data.clean.decontaminate_common))

        check_something_left(run, intake, train, evaluation)
        words = tokenizer.prepare(settings, corpus([*train, *examples]), run.folder() / "tokenizer")
        most = settings.rollout.max_prompt_tokens
        with shown(len(train), "tokens of prompts") as progress:
            train, longest = intake.fitting(train, words, most, progress.reach)
        fitted = {name: intake.fitting(problems, words, most) for name, problems in evaluation.items()}
        evaluation = {name: kept for name, (kept, _) in fitted.items()}
        longest = max([longest, *(length for _, length in fitted.values())])
        check_something_left(run, intake, train, evaluation)
    finally:  # the records are written even if cleaning fails
        write_jsonl(run.folder() / "quarantine.jsonl", intake.quarantine)
        write_jsonl(run.folder() / "dropped.jsonl", intake.dropped)
    counts, unused = write_files(run, train, evaluation, examples)

    Console().print(file_table(intake))
    lines = [*notes(intake), f"tokenizer of {len(words)} pieces; the longest prompt has {longest} tokens"]
    derived = sum(problem.derived for problem in train)
    if derived:
        lines.append(f"{derived:,} answers were taken from their solutions")
    stripped = sum(problem.stripped for problem in train)
    if stripped:
        lines.append(f"{stripped:,} problems had an answer-format instruction of their own, which was removed")
    if unused:
        lines.append(f"{unused:,} solutions end in another answer than their row's and are not used for the warm-up")
    if not data.eval_path:
        lines.append("WARNING: there is no evaluation set (data.eval_path.<name>=...): nothing was decontaminated")
    lines += counts_differ(data, sizes)
    for line in [*lines, ", ".join(f"{name}.jsonl {count:,} rows" for name, count in counts.items())]:
        run.log(line)
    return {"rows": counts, "sources": dict(Counter(problem.source for problem in train)), "files": numbers(intake)}


def shown(problems: int, label: str) -> Progress:
    """Progress over problems; off a terminal only where it takes more than a few seconds."""
    return Progress(problems, label, "problems", enabled=problems > MANY or is_terminal(sys.stdout))


def check_training_problems(settings: Settings) -> None:
    """Raises UsageError where there is nothing to train on, or to train a tokenizer on."""
    data = settings.data
    if not data.path and not (data.only_evaluates and not settings.sft.enabled):
        raise UsageError(
            "data.path is empty: name your problems (JSON lines, CSV, parquet, or a Hugging Face dataset folder) as "
            "data.path=problems.jsonl, or set data=arithmetic for the embedded ones"
        )
    if data.only_evaluates and data.tokenizer == "sentencepiece":
        raise UsageError(
            "data.tokenizer=sentencepiece trains a tokenizer, and there are no training problems. Evaluate a model with "
            "a tokenizer of its own: model=<folder>"
        )


def check_something_left(
    run: StageRun, intake: Intake, train: list[Problem], evaluation: dict[str, list[Problem]]
) -> None:
    """Raises InputError where cleaning left no training problem, or nothing of an evaluation set."""
    empty = next((f"evaluation set {name}" for name, problems in evaluation.items() if not problems), None)
    if (train or run.settings.data.only_evaluates) and empty is None:
        return
    chosen = {n: c for n, c in intake.counts.items() if n.startswith(f"eval/{empty.split()[-1]}" if empty else "")}
    reasons: Counter[str] = Counter()
    for name, count in chosen.items():
        if empty or not name.startswith(("eval/", "sft/")):
            reasons.update({reason: number for reason, number in count.items() if reason != "read"})
    said = ", ".join(f"{number:,} {reason}" for reason, number in reasons.most_common())
    raise InputError(
        f"Cleaning left nothing of the {empty or 'training problems'}: {said}. See {run.folder() / 'quarantine.jsonl'} and "
        "dropped.jsonl beside it; the settings are data.clean.* and rollout.max_prompt_tokens"
    )


def corpus(problems: list[Problem]) -> list[str]:
    """What a tokenizer is trained on: problems and solutions, evenly thinned out where they are many."""
    texts = [f"{problem.problem}\n{problem.solution or problem.answer or ''}" for problem in problems]
    return texts[:: 1 + sum(map(len, texts)) // LARGEST_CORPUS]


def write_files(
    run: StageRun, train: list[Problem], evaluation: dict[str, list[Problem]], examples: list[Problem]
) -> tuple[dict[str, int], int]:
    """Writes what later stages read; returns the rows of each file, and how many solutions could not be used."""
    folder, limit = run.folder(), run.settings.data.limit
    shutil.rmtree(folder / "eval", ignore_errors=True)  # sets of an earlier run that are no longer asked for
    counts: dict[str, int] = {}
    if not run.settings.data.only_evaluates:
        counts["train"] = write_jsonl(folder / "train.jsonl", map(problem_row, train))
    for name, problems in evaluation.items():
        counts[f"eval/{name}"] = write_jsonl(folder / "eval" / f"{name}.jsonl", map(problem_row, problems[:limit]))
    if run.settings.data.only_evaluates:
        return counts, 0
    chosen = examples if run.settings.data.sft_path else [problem for problem in train if problem.solution]
    rows = [row for problem in chosen if (row := warm_up_row(problem)) is not None]
    counts["sft"] = write_jsonl(folder / "sft.jsonl", rows)
    same_rows(folder / "sft.jsonl", folder / "sft_mixed.jsonl")
    return counts, len(chosen) - len(rows)


def warm_up_row(problem: Problem) -> dict[str, Any] | None:
    """None where the solution ends in another answer than the row's."""
    response = response_of(problem.solution or "", problem.answer)
    if response is None:
        return None
    return {"id": problem.id, "problem": problem.problem, "response": response, "source": problem.source}


def same_rows(source: Path, target: Path) -> None:
    """A preset's second warm-up phase trains on the same rows, because files do not say which solutions are for it."""
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:  # a file system without links
        shutil.copyfile(source, target)


if __name__ == "__main__":
    run_stage(main)
