"""Reads and cleans the user's files, with a record of what happened to every row.

Rows that are broken go into quarantine; good rows that are not wanted (copies, conflicting answers, problems of an
evaluation set) are dropped, with what they matched. Neither ends the run: only files that cannot be read, or nothing left, do.
"""

import sys
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from pipeline.common.errors import InputError
from pipeline.data.answers import RowError
from pipeline.data.duplicates import Drop
from pipeline.data.raw import RawRow
from pipeline.data.rows import Problem, parse, unique_ids
from pipeline.data.sources import Source
from pipeline.data.templates import encode_prompt
from pipeline.settings import Data
from pipeline.tracking.progress import Progress, is_terminal

SHOWN_CHARS = 300
"""Characters of a row that records quote."""
LONG_BYTES = 32 << 20
"""A smaller file is read in seconds: off a terminal no progress is printed."""
Row = dict[str, Any]


class Intake:
    """Reads, filters and counts.

    After all, for each file: read = kept + quarantined + dropped.
    """

    def __init__(self, data: Data) -> None:
        self.data = data
        self.quarantine: list[Row] = []
        self.dropped: list[Row] = []
        self.counts: dict[str, Counter[str]] = {}
        """By entry: rows `read`, and how many were left out for each reason."""
        self.quarantined: Counter[str] = Counter()
        """By entry: how many of these are in quarantine."""
        self.names: dict[str, str] = {}
        """Entry -> its path."""
        self._ids: set[str] = set()

    def train(self) -> list[Problem]:
        """The problems of `data.path`, cleaned, each with a unique id."""
        problems = [p for path in self.data.path for p in self._read(path, self.data.split, self._name(path))]
        unique_ids(problems, self._ids)
        return problems

    def examples(self) -> list[Problem]:
        """The rows of `data.sft_path`: problems with solutions."""
        found = []
        for path in self.data.sft_path:
            found += self._read(path, self.data.split, self._name(path, "sft"), needs="solution")
        unique_ids(found, set())
        return found

    def evaluation(self, name: str) -> list[Problem]:
        """One evaluation set, whole; `data.limit` cuts it only when it is written. Raises InputError if nothing is left."""
        entry = f"eval/{name}"
        self.names[entry] = self.data.eval_path[name]
        problems = self._read(self.data.eval_path[name], self.data.eval_split, entry)
        unique_ids(problems, set())
        return problems

    def _name(self, path: str, kind: str = "") -> str:
        """A short, unique name for a path: `gsm8k_train`, or `sft/gsm8k_train`."""
        given = Path(path)
        stem = given.name if given.is_dir() else given.name.removesuffix(".gz").rpartition(".")[0] or given.name
        prefix = f"{kind}/" if kind else ""
        name, number = prefix + stem, 2
        if name in self.names and given.parent.name:
            stem = f"{given.parent.name}-{stem}"
            name = prefix + stem
        while name in self.names:
            name, number = f"{prefix}{stem}-{number}", number + 1
        self.names[name] = path
        return name

    def _read(self, path: str, split: str, name: str, needs: str = "answer") -> list[Problem]:
        source, count = Source(path, split, self.data), self.counts.setdefault(name, Counter())
        # An evaluation set is read whole and as it is: it decides what is dropped from training.
        measured = name.startswith("eval/")
        most = None if measured else self.data.limit
        chars = None if measured else self.data.clean.max_problem_chars
        problems: list[Problem] = []
        shown = source.size > LONG_BYTES or is_terminal(sys.stdout)
        with Progress(max(1, source.size >> 10), f"reading {name}", "KiB", enabled=shown) as progress:
            for raw in source:
                count["read"] += 1
                try:
                    clean = self.data.clean
                    several = clean.several_answers == "keep"
                    problem = parse(raw, name, self.data.columns, needs, clean.strip_instructions, several)
                    if chars is not None and len(problem.problem) > chars:
                        text = f"{len(problem.problem):,} characters, and data.clean.max_problem_chars allows {chars:,}"
                        raise RowError("problem too long", text)
                    problems.append(problem)
                except RowError as error:
                    self._put_aside(name, raw, error)
                if count["read"] % 256 == 0:
                    progress.reach(source.position >> 10)
                if most is not None and count["read"] >= most:
                    break
            progress.reach(max(1, source.size >> 10))
        if not problems:
            raise InputError(self._nothing(path, name))
        return problems

    def _put_aside(self, name: str, raw: RawRow, error: RowError) -> None:
        text = raw.value if isinstance(raw.value, str) else repr(raw.value)
        self.quarantine.append(
            {
                "file": raw.file,
                "line": raw.line,
                "reason": error.reason,
                "detail": error.detail,
                "row": text[:SHOWN_CHARS],
            }
        )
        self.counts[name][error.reason] += 1
        self.quarantined[name] += 1

    def _nothing(self, path: str, name: str) -> str:
        if not self.counts[name]["read"]:
            return f"{path} is empty: it holds no rows. Give a file with problems"
        reasons = Counter({reason: n for reason, n in self.counts[name].items() if reason != "read"})
        reason, number = reasons.most_common(1)[0]
        first = next(row for row in reversed(self.quarantine) if row["reason"] == reason)
        return (
            f"{path}: none of its {self.counts[name]['read']:,} rows can be used. {number:,} of them: {reason}"
            + (f" ({first['detail']})" if first["detail"] else "")
            + (
                ". Name the columns: data.columns.problem=, data.columns.answer= or data.columns.solution="
                if reason in ("no problem", "no answer", "no solution")
                else ""
            )
        )

    def drop(self, problems: list[Problem], drops: Iterable[Drop]) -> list[Problem]:
        """`problems` without those in `drops`, which are recorded."""
        gone = {drop.index: drop for drop in drops}
        for index, drop in sorted(gone.items()):
            problem = problems[index]
            self.counts[problem.source][drop.reason] += 1
            self.dropped.append(
                {**problem.place, "reason": drop.reason, "detail": drop.detail, "matched": drop.matched}
                | {"problem": problem.problem[:SHOWN_CHARS], "answer": problem.answer}
            )
        return [problem for index, problem in enumerate(problems) if index not in gone]

    def fitting(
        self, problems: list[Problem], tokenizer: Any, most: int, on_progress: Callable[[int], None] | None = None
    ) -> tuple[list[Problem], int]:
        """The problems whose prompts have at most `most` tokens (the others go into quarantine); and the longest kept."""
        kept, longest = [], 0
        for i, problem in enumerate(problems):
            if on_progress is not None and (i % 256 == 255 or i + 1 == len(problems)):
                on_progress(i + 1)
            length = len(encode_prompt(problem.problem, self.data, tokenizer))
            if length <= most:
                kept.append(problem)
                longest = max(longest, length)
            else:
                detail = f"{length:,} tokens with its template, and rollout.max_prompt_tokens allows {most:,}"
                raw = RawRow(problem.file, problem.line, problem.problem)
                self._put_aside(problem.source, raw, RowError("prompt too long", detail))
        return kept, longest

    def left_out(self, name: str) -> int:
        """Rows of an entry that are not among the kept."""
        return sum(number for reason, number in self.counts[name].items() if reason != "read")
