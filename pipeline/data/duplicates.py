"""Problems that occur more than once: equal except for typing, or nearly equal.

Two problems are near duplicates where the Jaccard similarity of their shingles (runs of three tokens) reaches the threshold,
their numbers and operators are the same, and so are their answers: a changed number makes a new problem, and two texts
with different answers ask different things, even if they look alike. The similarity is exact, not estimated: of each problem
only its rarest shingles are looked up in an index, and the filter is lossless (Bayardo et al. 2007, "Scaling up all pairs
similarity search": sets of size n whose similarity is at least t share one of their n - ceil(t n) + 1 rarest elements).
"""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.data.answers import same_answer
from pipeline.data.rows import Problem
from pipeline.data.text import quantities

SHINGLE = 3
FEWEST_TOKENS = 8
"""Shorter problems are compared as a whole only: in them every word counts."""


@dataclass(frozen=True)
class Drop:
    """A problem that is left out, and why."""

    index: int
    """In the list that was looked at."""
    reason: str
    matched: dict[str, Any]
    """The problem that it is a copy of: id, file, line; or the evaluation problem that it was found in."""
    detail: str = ""


def repeated(problems: list[Problem]) -> list[Drop]:
    """Every copy but the first of problems that are equal except for typing.

    Where their answers differ, those of more than half of the copies are believed and the others dropped; without such a
    majority all are, since nobody knows which is right. A kept copy without a solution takes over a dropped one's.
    """
    groups: dict[str, list[int]] = defaultdict(list)
    for i, problem in enumerate(problems):
        groups[problem.key].append(i)
    drops: list[Drop] = []
    for members in groups.values():
        if len(members) > 1:
            drops += _settle(problems, members)
    return sorted(drops, key=lambda drop: drop.index)


def _settle(problems: list[Problem], members: list[int]) -> Iterator[Drop]:
    camps: list[list[int]] = []
    for i in members:
        answer = problems[i].answer or ""
        camp = next((camp for camp in camps if same_answer(problems[camp[0]].answer or "", answer)), None)
        if camp is None:
            camps.append([i])
        else:
            camp.append(i)
    best = max(camps, key=len)
    said = ", ".join(f"{problems[camp[0]].answer} ({len(camp)})" for camp in camps)
    if len(camps) > 1 and 2 * len(best) <= len(members):
        for i in members:
            other = members[0] if i != members[0] else members[1]
            yield Drop(i, "conflicting answers", problems[other].place, f"the copies' answers: {said}")
        return
    kept = problems[best[0]]
    for i in members:
        if i == best[0]:
            continue
        if i in best:
            kept.solution = kept.solution or problems[i].solution
            yield Drop(i, "duplicate", kept.place)
        else:
            yield Drop(i, "conflicting answers", kept.place, f"the copies' answers: {said}")


def repeated_examples(examples: list[Problem]) -> list[Drop]:
    """Repeated warm-up rows: the same problem with the same solution. Several solutions of one may stay."""
    first: dict[tuple[str, str], Problem] = {}
    drops = []
    for i, example in enumerate(examples):
        kept = first.setdefault((example.key, example.solution or ""), example)
        if kept is not example:
            drops.append(Drop(i, "duplicate", kept.place))
    return drops


def similar(problems: list[Problem], threshold: float, on_progress: Callable[[int], None] | None = None) -> list[Drop]:
    """Every near duplicate of an earlier problem that stays. `threshold` 1 or more finds none.

    `on_progress` is called with the number of problems looked at.
    """
    if threshold >= 1:
        return []
    sets = shingle_sets([problem.key for problem in problems])
    asks = [quantities(problem.key.split()) for problem in problems]
    index: dict[int, list[int]] = defaultdict(list)
    drops: list[Drop] = []
    for i, shingles in enumerate(sets):
        if on_progress is not None and (i % 256 == 255 or i + 1 == len(problems)):
            on_progress(i + 1)
        size = len(shingles)
        if not size:
            continue
        prefix = shingles[: size - math.ceil(threshold * size - 1e-9) + 1].tolist()
        candidates = Counter(j for shingle in prefix for j in index.get(shingle, ()))
        twin, likeness = None, 0.0
        for j in sorted(candidates):
            least, most = sorted((size, len(sets[j])))
            if least < threshold * most - 1e-9 or asks[i] != asks[j]:
                continue
            likeness = jaccard(shingles, sets[j])
            if likeness >= threshold - 1e-9 and same_answer(problems[j].answer or "", problems[i].answer or ""):
                twin = j
                break
        if twin is None:
            for shingle in prefix:
                index[shingle].append(i)
            continue
        problems[twin].solution = problems[twin].solution or problems[i].solution
        drops.append(Drop(i, "near duplicate", problems[twin].place, f"similarity {likeness:.3f}"))
    return drops


def shingle_sets(keys: list[str]) -> list[np.ndarray]:
    """The shingles of each canonical text as distinct numbers, uint64, the rarest of all texts first.

    Empty for texts of fewer than `FEWEST_TOKENS` tokens.
    """
    numbers: dict[str, int] = {}
    factors = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9], dtype=np.uint64)
    hashed: list[np.ndarray] = []
    for text in keys:
        row = np.array([numbers.setdefault(token, len(numbers) + 1) for token in text.split()], dtype=np.uint64)
        if len(row) < FEWEST_TOKENS:
            hashed.append(row[:0])
            continue
        runs = np.lib.stride_tricks.sliding_window_view(row, SHINGLE)
        # Wraps around at 2^64. Two of a million different shingles collide with a chance of about 3e-8.
        mixed = (runs * factors).sum(axis=1, dtype=np.uint64)
        mixed ^= mixed >> np.uint64(29)
        hashed.append(np.unique(mixed))
    everything = np.concatenate(hashed) if hashed else np.empty(0, dtype=np.uint64)
    _, inverse, counts = np.unique(everything, return_inverse=True, return_counts=True)
    order = np.argsort(counts, kind="stable")
    rank = np.empty(len(order), dtype=np.uint64)
    rank[order] = np.arange(len(order), dtype=np.uint64)
    ranked = rank[inverse]
    sets, start = [], 0
    for row in hashed:
        sets.append(np.sort(ranked[start : start + len(row)]))
        start += len(row)
    return sets


def jaccard(one: np.ndarray, other: np.ndarray) -> float:
    """|A and B| / |A or B| of two sets of distinct numbers."""
    shared = len(np.intersect1d(one, other, assume_unique=True))
    return shared / (len(one) + len(other) - shared) if shared else 0.0
