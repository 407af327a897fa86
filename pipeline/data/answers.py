r"""Answers and solutions as people's files hold them, and as the pipeline needs them.

An answer is bare text for the verifier: `\boxed{x}` is unwrapped, `... #### x` becomes x, `["x"]` becomes x, numbers become
text. A solution becomes a response that ends in a box, which is what the instruction asks a model for.
"""

import json
import math
import re
from decimal import Decimal
from typing import Any

from pipeline.data.text import clean
from pipeline.verify import grade
from pipeline.verify.reading.boxes import find_boxes
from pipeline.verify.reading.extract import extract
from pipeline.verify.reading.golds import alternatives
from pipeline.verify.reading.normalize import LONGEST_ANSWER, key

_CALCULATION = re.compile(r"<<[^<>\n]*>>")
_MARK = "####"
_PLACEHOLDERS = frozenset(
    {
        "none", "null", "nan", "n/a", "na", "nil", "proof", "notfound", "not found", "not available", "unknown", "tbd", "todo",
        "see solution", "no answer", "empty", "error", "-", "--", "?", "...", "[]", "{}", "()",
    }
)  # fmt: skip
"""What stands in answer columns where there is no answer, in small letters. A problem of which it is the answer is lost."""
_ONE_QUOTED = re.compile(r"\[\s*(['\"])((?:(?!\1).)*)\1\s*\]", re.S)
_LIST_OF_TEXTS = re.compile(r"\[\s*['\"].*['\"]\s*\]", re.S)
_NUMBER_OF = re.compile(r"([-+]?\$?\d[\d.,/]*) *\((?!mod\b)[A-Za-z][A-Za-z .-]*\)")
"""A number and what it counts, as ASDiv writes it: `2 (apples)`."""
_IN_DOLLARS = re.compile(r"\$+([^$]+)\$+|\\\(((?:(?!\\\)).)+)\\\)", re.S)


class RowError(Exception):
    """A row that cannot be used: a short reason to count by, and what exactly is wrong."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason, self.detail = reason, detail


def as_text(value: Any, what: str) -> str | None:
    """Text of a cell, cleaned: numbers as text, a list of one as its element; None where it is missing or NaN.

    Raises RowError for several values, and for anything else that is not text or a number.
    """
    value = _single(value, what)
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        raise RowError("wrong type", f"{what} is of type {type(value).__name__}; text or a number is wanted")
    if isinstance(value, float) and (value.is_integer() or math.isinf(value)):
        if math.isinf(value):
            raise RowError("wrong type", f"{what} is infinite")
        return str(int(value))
    return format(value, "f") if isinstance(value, Decimal) else str(value)


def as_gold(value: Any, keep_several: bool) -> str | None:
    """Text of an answer cell, as `as_text` makes it. With `keep_several`, different values become the JSON text of a list,
    which `verify.gold_list` says how to read.

    Raises RowError as `as_text` does, and for what is wrong with one of several values.
    """
    try:
        return as_text(value, "the answer")
    except RowError as error:
        if not keep_several or error.reason != "several values":
            raise
    held = json.loads(value) if isinstance(value, str) else value
    answers = [tidy(as_text(one, "the answer") or "")[0] for one in held if one is not None and one != ""]
    return json.dumps(list(dict.fromkeys(answers)), ensure_ascii=False)


def _single(value: Any, what: str) -> Any:
    """The one element of a list; also of a list that is written as text (`["7"]`, as in Skywork-OR1)."""
    if isinstance(value, str):
        text = value.strip()
        if not (text.startswith("[") and _LIST_OF_TEXTS.fullmatch(text)):
            return value
        one = _ONE_QUOTED.fullmatch(text)
        if one:  # taken as it is written: as JSON, the \\f of "\\frac" would be a form feed
            return one[2].replace("\\\\", "\\")
        try:
            value = json.loads(text)
        except ValueError:
            return text
    if not isinstance(value, list):
        return value
    held = [one for one in value if one is not None and one != ""]
    if len(held) > 1 and any(one != held[0] for one in held):
        raise RowError("several values", f"{what} has {len(held)} values; one is wanted")
    return _single(held[0], what) if held else None


def tidy(answer: str) -> tuple[str, str | None]:
    """The bare answer, and the solution in front of it (GSM8K's own answers are `<solution> #### <answer>`).

    Raises RowError where nothing is left, only a placeholder (`proof`, `None`), or more than the verifier reads.
    """
    solution = None
    if _MARK in answer:
        solution = answer
        answer = answer.rpartition(_MARK)[2].strip()
    if "box" in answer and find_boxes(answer):
        answer = (extract(answer).answer or "").strip()
    options = alternatives(answer)
    if len(options) == 1:  # `["7"]`
        answer = options[0]
    whole = _IN_DOLLARS.fullmatch(answer)
    if whole:
        answer = (whole.group(1) or whole.group(2)).strip()
    counted = _NUMBER_OF.fullmatch(answer)
    if counted:
        answer = counted[1]
    if not answer:
        raise RowError("empty answer")
    if answer.strip(".").lower() in _PLACEHOLDERS or answer.lower() in _PLACEHOLDERS:
        raise RowError("placeholder answer", f"{answer!r} stands for a missing answer")
    if len(answer) > LONGEST_ANSWER:
        raise RowError("answer too long", f"{len(answer)} characters; the verifier reads at most {LONGEST_ANSWER}")
    return answer, solution


def check_readable(answer: str) -> None:
    r"""Raises RowError where an answer is not even graded as equal to itself (`\text{proof}`): no response could be right."""
    if len(alternatives(answer)) < 2 and not grade(f"\\boxed{{{answer}}}", answer).correct:
        raise RowError("unreadable answer", f"{answer!r} is not graded as right even against itself")


def from_solution(solution: str) -> str | None:
    r"""The answer that a solution states after `####` or in its last `\boxed{}`; prose is not guessed at."""
    if _MARK in solution:
        found: str | None = solution.rpartition(_MARK)[2]
    else:
        found = extract(solution).answer if find_boxes(solution) else None
    return (found or "").strip() or None


def response_of(solution: str, answer: str | None) -> str | None:
    """The solution as a warm-up response that ends in a boxed answer; None where it ends in another one than `answer`.

    Without any `answer`, the solution as it is. None also where it ends in none and there are several to choose from.
    """
    solution = _CALCULATION.sub("", solution)
    if answer is None:
        return solution
    body, mark, stated = solution.rpartition(_MARK)
    if mark:
        if not same_answer(stated.strip(), answer):
            return None
        solution = body.rstrip()
    elif find_boxes(solution):
        return solution if same_answer(extract(solution).answer or "", answer) else None
    elif len(alternatives(answer)) > 1:
        return None
    return f"{solution}\n\nThe final answer is $\\boxed{{{answer}}}$."


def same_answer(one: str, other: str) -> bool:
    """Whether two answers say the same, as the verifier sees it."""
    return one == other or key(one) == key(other) != "" or grade(f"\\boxed{{{one}}}", other).correct
