"""Evaluation sets that a finished run was not prepared with: read for one evaluation, compared with what the run trained on."""

from collections import Counter
from pathlib import Path
from typing import Any

from pipeline.common.errors import InputError
from pipeline.common.files import read_jsonl, write_jsonl
from pipeline.data.contamination import EvaluationIndex
from pipeline.data.intake import Intake
from pipeline.data.intake_report import notes
from pipeline.data.ready import counts_differ, with_files
from pipeline.data.rows import Problem, problem_row
from pipeline.stage import StageRun


def prepare(run: StageRun, folder: Path, tokenizer: Any) -> dict[str, int]:
    """Reads the sets of `data.eval_path` and writes `<set>.jsonl` for each into `folder`, and `quarantine.jsonl` beside it.

    Returns, by set, how many of its problems are also in the training data of the run: nothing was dropped from them for
    these sets. The run's own files stay as they are.

    Raises:
        InputError: a set cannot be read, or nothing of it is left.
    """
    data, most = run.settings.data, run.settings.rollout.max_prompt_tokens
    intake = Intake(with_files(data, folder.with_name(f"{folder.name}.published")))
    sets: dict[str, list[Problem]] = {}
    quarantine = folder.with_name(f"{folder.name}.quarantine.jsonl")
    try:
        for name in sorted(data.eval_path):
            whole = intake.evaluation(name)
            sets[name], _ = intake.fitting(whole, tokenizer, most)
            if not sets[name]:
                raise InputError(f"No problem of {name} fits into rollout.max_prompt_tokens={most}. See {quarantine}")
    finally:
        write_jsonl(quarantine, intake.quarantine)
    for file in folder.glob("*.jsonl"):
        file.unlink()
    for name, problems in sets.items():
        write_jsonl(folder / f"{name}.jsonl", map(problem_row, problems[: data.limit]))
    for line in [*notes(intake), *counts_differ(data, {name: len(problems) for name, problems in sets.items()})]:
        run.log(line)
    return _in_training(run, sets)


def _in_training(run: StageRun, sets: dict[str, list[Problem]]) -> dict[str, int]:
    """How many problems of each set the run has trained on, by the rules of decontamination; each is said."""
    clean = run.settings.data.clean
    trained = _trained_on(run)
    index = EvaluationIndex(sets, clean.decontaminate_ngram)
    found = {
        (str(drop.matched["set"]), drop.matched["line"])
        for drop in index.contaminated(trained, clean.decontaminate_common)
    }
    counts = Counter(name for name, _ in found)
    for name, count in sorted(counts.items()):
        run.log(
            f"WARNING: {count:,} of the {len(sets[name]):,} problems of {name} are also in the training data of this run: its"
            " accuracy is no measure of new problems"
        )
    return {name: counts[name] for name in sets} if trained else {}


def _trained_on(run: StageRun) -> list[Problem]:
    """The problems of the run's training and warm-up."""
    texts: dict[str, None] = {}
    for name in ("train", "sft", "sft_mixed"):
        file = run.root / "preprocess" / f"{name}.jsonl"
        if file.exists():
            texts |= {row["problem"]: None for row in read_jsonl(file)}
    return [Problem(None, text, None, None, "train", "train.jsonl", line) for line, text in enumerate(texts, 1)]
