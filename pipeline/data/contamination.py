"""Training problems that are also in an evaluation set.

A training problem is dropped where it is typed like an evaluation problem, or shares a run of `ngram` words with one.
Competition problems end in set phrases ("where m and n are relatively prime positive integers. Find m+n" has 13 words), so a
run that more than `common` problems have, training and evaluation together, is no evidence by itself; it counts again where
such runs cover most of an evaluation problem. Drawings in Asymptote are left out of the words: their code is alike everywhere.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass

from pipeline.data.duplicates import Drop
from pipeline.data.rows import Problem
from pipeline.data.text import words

COVERED = 0.6
"""Share of an evaluation problem's words from which shared runs count however common they are."""
_DRAWING = re.compile(r"\[asy\].*?(?:\[/asy\]|\Z)", re.S | re.I)

Run = tuple[str, ...]


@dataclass(frozen=True)
class _Place:
    """Where a run of words stands: which evaluation problem, and its first word."""

    number: int
    start: int


class EvaluationIndex:
    """All evaluation problems, by their whole text and by their runs of words."""

    def __init__(self, sets: dict[str, list[Problem]], ngram: int) -> None:
        self.ngram = ngram
        self.problems = [(name, problem) for name, problems in sets.items() for problem in problems]
        self.whole: dict[str, int] = {}
        self.runs: dict[Run, list[_Place]] = defaultdict(list)
        self.lengths: list[int] = []
        for number, (_, problem) in enumerate(self.problems):
            self.whole.setdefault(problem.key, number)
            spoken = _spoken(problem.problem)
            self.lengths.append(len(spoken))
            for start in range(len(spoken) - ngram + 1):
                self.runs[tuple(spoken[start : start + ngram])].append(_Place(number, start))

    def contaminated(
        self, problems: list[Problem], common: int, on_progress: Callable[[int], None] | None = None
    ) -> list[Drop]:
        """The problems to drop, each with the evaluation problem that it matched. `common` 0: every shared run counts."""
        shared: dict[int, list[Run]] = {}
        spread: Counter[Run] = Counter()
        for i, problem in enumerate(problems):
            if on_progress is not None and (i % 256 == 255 or i + 1 == len(problems)):
                on_progress(i + 1)
            found = self._shared(problem)
            if found:
                shared[i] = found
                spread.update(set(found))
        for run in spread:
            spread[run] += len({place.number for place in self.runs[run]}) - 1  # the one that it is evidence of aside
        drops = []
        for i, problem in enumerate(problems):
            number = self.whole.get(problem.key)
            if number is not None:
                drops.append(self._drop(i, number, "the whole problem"))
            elif i in shared and (match := self._judge(shared[i], spread, common)) is not None:
                drops.append(self._drop(i, *match))
        return drops

    def _shared(self, problem: Problem) -> list[Run]:
        spoken = _spoken(problem.problem)
        runs = (tuple(spoken[start : start + self.ngram]) for start in range(len(spoken) - self.ngram + 1))
        return [run for run in runs if run in self.runs]

    def _judge(self, found: list[Run], spread: Counter[Run], common: int) -> tuple[int, str] | None:
        """(evaluation problem, what was shared) where it is evidence."""
        rarest = min(found, key=lambda run: spread[run])
        if not common or spread[rarest] <= common:
            return self.runs[rarest][0].number, f"{self.ngram} words: {' '.join(rarest)}"
        covered: dict[int, set[int]] = defaultdict(set)
        for run in found:
            for place in self.runs[run]:
                covered[place.number].update(range(place.start, place.start + self.ngram))
        number, marked = max(covered.items(), key=lambda item: len(item[1]) / self.lengths[item[0]])
        share = len(marked) / self.lengths[number]
        return (number, f"{share:.0%} of its words") if share >= COVERED else None

    def _drop(self, index: int, number: int, what: str) -> Drop:
        name, problem = self.problems[number]
        return Drop(index, "contaminated", {"set": name} | problem.place, what)


def _spoken(text: str) -> list[str]:
    return words(_DRAWING.sub(" ", text))
