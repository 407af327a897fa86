"""Files of a user, and the preprocess stage on them in the test's process."""

import json
from pathlib import Path
from typing import Any

from pipeline.common.files import read_jsonl
from pipeline.data.rows import Problem
from pipeline.run.compose import compose
from pipeline.stage import StageRun
from stages import preprocess


def write_rows(path: Path, rows: list[Any]) -> Path:
    """Writes JSON lines; a string is written unchanged, so that a test can write invalid JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("".join(line + "\n" for line in lines), "utf-8")
    return path


def problems(*rows: tuple[str, str]) -> list[Problem]:
    """Makes cleaned problems of (problem, answer) pairs, with ids 0, 1, ..."""
    return [
        Problem(str(i), problem, answer, None, "test", "test.jsonl", i + 1)
        for i, (problem, answer) in enumerate(rows)
    ]  # fmt: skip


def preprocessed(folder: Path, *words: str) -> tuple[StageRun, dict[str, Any]]:
    """Runs the stage on the tiny preset with a new tokenizer; returns the run and the result for the manifest."""
    words = ("stage=preprocess", "model=tiny", "data=math", "data.tokenizer=sentencepiece", *words)
    settings = compose([*words, f"runs_dir={folder / 'runs'}", "name=test"])
    run = StageRun(settings, Path(settings.runs_dir) / settings.name)
    return run, preprocess.main(run)


def rows_of(run: StageRun, name: str) -> list[dict[str, Any]]:
    return list(read_jsonl(run.root / "preprocess" / f"{name}.jsonl"))
