"""Training problems that are also in an evaluation set.

A training problem is dropped if it is typed like an evaluation problem, or shares a run of `ngram` words with one. But
competition problems are full of set phrases ("can be written as m/n, where m and n are relatively prime positive integers.
Find m+n"), which say nothing about where a problem comes from. So a shared run is evidence only if half a run of it occurs
in few problems, training and evaluation together; or where shared runs cover most of an evaluation problem. Drawings in
Asymptote are left out of the words: their code is the same everywhere.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pipeline.data.duplicates import Drop
from pipeline.data.rows import Problem
from pipeline.data.text import words

COVERED = 0.6
"""Share of an evaluation problem's words from which on shared runs count, even common ones."""
SHORTEST_HALF = 4
"""Fewer words in a row are common in any text."""
_DRAWING = re.compile(r"\[asy\].*?(?:\[/asy\]|\Z)", re.S | re.I)

Run = tuple[str, ...]


@dataclass(frozen=True)
class _Place:
    """The place of a run of words: which evaluation problem, and its first word."""

    number: int
    start: int


class EvaluationIndex:
    """All evaluation problems, by their whole text and by their runs of words."""

    def __init__(self, sets: dict[str, list[Problem]], ngram: int) -> None:
        self.ngram, self.half = ngram, min(ngram, max(SHORTEST_HALF, ngram // 2))
        self.problems = [(name, problem) for name, problems in sets.items() for problem in problems]
        self.spoken = [spoken(problem.problem) for _, problem in self.problems]
        self.whole: dict[str, int] = {}
        self.runs: dict[Run, list[_Place]] = defaultdict(list)
        for number, (_, problem) in enumerate(self.problems):
            self.whole.setdefault(problem.key, number)
            for start, run in enumerate(runs(self.spoken[number], ngram)):
                self.runs[run].append(_Place(number, start))

    def contaminated(
        self, problems: list[Problem], common: int, on_progress: Callable[[int], None] | None = None
    ) -> list[Drop]:
        """The problems to drop, each with the evaluation problem that it matched.

        Half a run that occurs in more than `common` problems is a phrase. With `common` 0 every shared run counts.
        """
        texts = [spoken(problem.problem) for problem in problems]
        shared: dict[int, list[Run]] = {}
        for i, text in enumerate(texts):
            if on_progress is not None and (i % 256 == 255 or i + 1 == len(texts)):
                on_progress(i + 1)
            found = [run for run in runs(text, self.ngram) if run in self.runs]
            if found:
                shared[i] = found
        spread = self._spread(texts, {run for found in shared.values() for run in found}) if common else Counter()
        drops = []
        for i, problem in enumerate(problems):
            number = self.whole.get(problem.key)
            if number is not None:
                drops.append(self._drop(i, number, "the whole problem"))
            elif i in shared and (match := self._judge(shared[i], spread, common)) is not None:
                drops.append(self._drop(i, *match))
        return drops

    def _spread(self, texts: list[list[str]], found: set[Run]) -> Counter[Run]:
        """In how many problems each half of the `found` runs occurs."""
        wanted = {half for run in found for half in runs(run, self.half)}
        spread: Counter[Run] = Counter()
        for text in (*texts, *self.spoken):
            spread.update(wanted.intersection(runs(text, self.half)))
        return spread

    def _judge(self, found: list[Run], spread: Counter[Run], common: int) -> tuple[int, str] | None:
        """(evaluation problem, what was shared) where it is evidence."""
        rarity, rarest = min((min(spread[half] for half in runs(run, self.half)), run) for run in found)
        if rarity <= common + 1 or not common:  # one of them is the evaluation problem
            return self.runs[rarest][0].number, f"{self.ngram} words: {' '.join(rarest)}"
        covered: dict[int, set[int]] = defaultdict(set)
        for run in found:
            for place in self.runs[run]:
                covered[place.number].update(range(place.start, place.start + self.ngram))
        share, number = max((len(marked) / len(self.spoken[number]), -number) for number, marked in covered.items())
        return (-number, f"{share:.0%} of its words") if share >= COVERED else None

    def _drop(self, index: int, number: int, what: str) -> Drop:
        name, problem = self.problems[number]
        return Drop(index, "contaminated", {"set": name} | problem.place, what)


def spoken(text: str) -> list[str]:
    """The words of a problem without its drawings."""
    return words(_DRAWING.sub(" ", text))


def runs(text: list[str] | Run, length: int) -> Iterator[Run]:
    """All runs of `length` words, in order."""
    return (tuple(text[start : start + length]) for start in range(len(text) - length + 1))
