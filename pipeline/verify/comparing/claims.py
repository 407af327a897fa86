r"""Answers that say something false of their own numbers, `x = 2 = 3` or `24 \approx 23`: they are no answers."""

import re
from itertools import pairwise

from pipeline.verify.comparing import sampling
from pipeline.verify.reading import syntax
from pipeline.verify.reading.numbers import parse_number
from pipeline.verify.reading.scan import find_top, split_top

_CLAIMS = {"=", r"\approx", r"\sim", r"\equiv", r"\implies", r"\Rightarrow", r"\rightarrow", r"\to", r"\iff"}
_PARTS = re.compile(r"\\text\s*\{\s*,?\s*(?:and|or)\s*,?\s*\}|(?<![A-Za-z\\])(?:and|or)(?![a-z])|;")
DEEPEST = 12
"""Braces around braces: no answer has more."""
_NESTED = re.compile(rf"(?:\\?\{{\s*){{{DEEPEST},}}")


def nested_too_deeply(answer: str) -> bool:
    return _NESTED.search(answer) is not None


def contradicts_itself(cleaned: str) -> bool:
    """Whether two constants that `cleaned` sets equal, or one of which it says to follow from the other, differ."""
    if not any(mark in cleaned for mark in _CLAIMS) or "mod" in cleaned or "\\lim" in cleaned:
        return False
    for part in _PARTS.split(cleaned):
        for claim in split_top(part, ","):
            sides = _sides(claim)
            if any(_differ(a, b) for a, b in pairwise(sides)):
                return True
    return False


def _sides(claim: str) -> list[str]:
    marks = find_top(claim, _CLAIMS)
    ends = [0, *[end for _, _, end in marks]]
    starts = [*[start for _, start, _ in marks], len(claim)]
    return [claim[a:b].strip() for a, b in zip(ends, starts, strict=True)] if marks else []


def _differ(a: str, b: str) -> bool:
    left, right = _value(a), _value(b)
    if left is None or right is None:
        return False
    if _last_digit(a) == _last_digit(b):
        return abs(left - right) > 1e-9 * max(abs(left), abs(right))
    rounded, exact, step = (
        (left, right, _last_digit(a)) if _last_digit(a) > _last_digit(b) else (right, left, _last_digit(b))
    )
    if abs(rounded) > abs(exact):
        step *= 0.5001  # rounded up; a decimal that was cut off is below
    return abs(left - right) >= max(step, 1e-9 * max(abs(left), abs(right), 1e-300))


def _value(text: str) -> float | None:
    number = parse_number(text)
    if number is not None:
        try:
            return float(number.value)
        except OverflowError:
            return None
    try:
        tree = syntax.parse(text)
    except (SyntaxError, RecursionError):
        return None
    return None if syntax.symbols(tree) else sampling.real_value(tree)


def _last_digit(text: str) -> float:
    """What one more in the last digit of a decimal, or of a round number, is worth; 0 for what is exact."""
    number = parse_number(text)
    if number is None:
        return 0.0
    if number.places is not None:
        return 10.0**-number.places
    zeros = re.fullmatch(r"-?\d+?(0+)", text)
    return 10.0 ** len(zeros.group(1)) if zeros else 0.0
