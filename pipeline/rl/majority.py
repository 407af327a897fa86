"""maj@k: is the answer that most of k responses give the right one?

Two responses vote for the same answer if the verifier finds their answers equal. Right ones all equal the gold and are one
candidate. Responses without an answer do not vote. Among candidates with equally many votes one is drawn, so a tie counts
as the share of right ones in it: the expected value, without a random draw.
"""

import re
from collections import Counter
from collections.abc import Callable
from itertools import combinations

from pipeline.verify import Grade

Pair = tuple[str, str]
_INTEGER = re.compile(r"-?\d+")


def majority_right(grades: list[list[Grade]], equal: Callable[[list[Pair]], list[bool]]) -> list[float]:
    """For each problem the chance that the majority's answer is right.

    Args:
        grades: [problems][k].
        equal: says of pairs of answers whether they are the same. Asked once, for all problems.
    """
    wrong = [Counter(_votes(group)) for group in grades]
    pairs = [(i, a, b) for i, votes in enumerate(wrong) for a, b in combinations(sorted(votes), 2) if _may_equal(a, b)]
    same: list[dict[str, set[str]]] = [{} for _ in grades]
    for (i, a, b), verdict in zip(pairs, equal([(a, b) for _, a, b in pairs]) if pairs else [], strict=True):
        if verdict:
            same[i].setdefault(a, set()).add(b)
            same[i].setdefault(b, set()).add(a)
    return [
        _share(sum(grade.correct for grade in group), _candidates(votes, links))
        for group, votes, links in zip(grades, wrong, same, strict=True)
    ]


def _votes(group: list[Grade]) -> list[str]:
    """The wrong answers of a group, as text."""
    texts = [(grade.extracted or "").strip() for grade in group if not grade.correct]
    return [text for text in texts if text]


def _may_equal(a: str, b: str) -> bool:
    """Two different texts of whole numbers are different numbers, apart from zeros in front, which nobody writes."""
    return not (_INTEGER.fullmatch(a) and _INTEGER.fullmatch(b))


def _candidates(votes: Counter[str], links: dict[str, set[str]]) -> list[int]:
    """Votes of each wrong candidate: answers that are connected by equality are one."""
    left, counts = set(votes), []
    while left:
        found, queue = set(), [left.pop()]
        while queue:
            answer = queue.pop()
            found.add(answer)
            queue += links.get(answer, set()) & left
            left -= links.get(answer, set())
        counts.append(sum(votes[answer] for answer in found))
    return counts


def _share(right: int, wrong: list[int]) -> float:
    """The chance that a candidate with the most votes is the right one."""
    if not right:
        return 0.0
    rivals = [votes for votes in wrong if votes >= right]
    return 0.0 if any(votes > right for votes in rivals) else 1 / (1 + len(rivals))
