"""Grades one response in the current process: `grade_pair` extracts the answer and tries the layers in order."""

import re
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache

from pipeline.verify.comparing import form as forms
from pipeline.verify.comparing import sound
from pipeline.verify.comparing.compare import Comparison
from pipeline.verify.comparing.copies import is_copied_ordinal, sought_value
from pipeline.verify.comparing.scalars import DIGITS_OF_A_PAIR
from pipeline.verify.reading.boxes import squeeze
from pipeline.verify.reading.extract import Extraction, extract
from pipeline.verify.reading.golds import alternatives
from pipeline.verify.reading.normalize import LONGEST_ANSWER, clean, key
from pipeline.verify.reading.numbers import numbers_equal, parse_number
from pipeline.verify.reading.relations import stated_value
from pipeline.verify.types import Conventions, Form, Grade

_DECIMAL = re.compile(r"\.\d|\d\.")
_DECIMAL_COMMA = re.compile(r"-?0,")
"""`0,333`, which may also be a decimal."""
_IN_BASE = re.compile(r"([0-9A-F]+)\s*_\s*\{?\s*(\d+)\s*\}?")
"""`2516_8`, of which a problem that asks for base 8 needs the digits alone."""
_SHORT = 12
"""A longer gold may be prose, of which only a part is read: its own text is right too."""

Ask = Callable[[str, str, str], bool | None]
"""The symbolic layer: (question, left, right) -> True, False, or None where it cannot tell."""


@lru_cache(maxsize=20_000)
def gold_answer(gold: str) -> tuple[str, str, bool]:
    """(the answer within a gold text, cleaned; its key; whether it was given in several parts). A gold may be a bare
    answer, a formula, or a whole solution."""
    gold = gold.strip()
    if len(gold) > 400 or "boxed" in gold or "$" in gold or "answer" in gold.lower() or "\\(" in gold or "\\[" in gold:
        found = extract(gold)
        if found.answer is not None:
            gold, prose, several = found.answer, found.prose, found.several
        else:
            prose, several = False, False
    else:
        prose, several = False, False
    if len(gold) > LONGEST_ANSWER:
        return "", "", False
    cleaned = clean(gold, prose)
    return cleaned, key(cleaned), several


@lru_cache(maxsize=20_000)
def gold_answers(gold: str, how: str) -> list[tuple[str, str, bool]]:
    """`gold_answer` of each text that the gold accepts, without those that hold no answer."""
    return [found for text in alternatives(gold, how) if (found := gold_answer(text))[0]]


def grade_pair(
    response: str, gold: str, conventions: Conventions, ask: Ask, problem: str = "", form: Form = "equal"
) -> Grade:
    """The verdict on `response`. Raises only what `ask` raises, and RecursionError or MemoryError."""
    found = extract(response, conventions.plain_response, conventions.hedge_distance)
    if found.answer is None:
        return Grade(False, None, "no final answer", "extract", unread="extract")
    if len(found.answer) > LONGEST_ANSWER:
        return Grade(False, None, "answer too long", "extract")
    if found.hedged:
        return Grade(False, found.answer, "hedged", "extract")
    grade = Grade(False, found.answer, "no gold answer", "extract")
    wanteds = gold_answers(gold, conventions.gold_list)
    for wanted, wanted_key, several in wanteds:
        verdict = answers_equal(found, wanted, wanted_key, several, conventions, ask, problem)
        if verdict.correct and form == "evaluated" and is_copied_ordinal(found.answer, gold, problem):
            verdict = Grade(False, found.answer, "not evaluated: an ordinal of the problem", "form")
        if verdict.correct and verdict.layer != "string" and not (form == "equal" and _is_numeral(found)):
            own = {wanted_key, key(clean(gold))} if len(gold) <= LONGEST_ANSWER else {wanted_key}
            verdict = _without_objection(verdict, found, wanted, own, problem, form)
        if verdict.correct or grade.layer != "form":
            grade = verdict
        if verdict.correct:
            return grade
    if wanteds and len(gold) > _SHORT and squeeze(found.answer) == squeeze(gold):
        return Grade(True, found.answer, "equal", "string")
    return grade


def _is_numeral(found: Extraction) -> bool:
    """Whether the answer is a numeral, which has no symbols that could cancel and states one value."""
    assert found.answer is not None
    return parse_number(clean(found.answer, found.prose)) is not None


def _without_objection(grade: Grade, found: Extraction, wanted: str, own: set[str], problem: str, form: Form) -> Grade:
    """`grade`, or the verdict that an equal answer is not paid: its symbols cancel, or its work is left undone. `own`: the
    keys of the gold's own form, which is always paid."""
    assert found.answer is not None
    given = clean(found.answer, found.prose)
    if key(given) in own:
        return grade
    if form == "evaluated" and problem and "=" in given and forms.objection(given, wanted, problem) == forms.COPIED:
        return Grade(False, found.answer, f"not evaluated: {forms.COPIED}", "form")
    given = _value_of(given, wanted, problem)
    reason = sound.objection(given, wanted, strict=form == "evaluated")
    if reason:
        return Grade(False, found.answer, f"no answer: {reason}", "form")
    if form == "evaluated" and (reason := forms.objection(given, wanted, problem)):
        return Grade(False, found.answer, f"not evaluated: {reason}", "form")
    return grade


def _digits(given: str, wanted: str, conventions: Conventions) -> int:
    """Significant digits that a decimal needs to stand for a value without a finite one. A gold, which was rounded by its
    author, needs one less than an answer, which could be a guess."""
    if "." not in wanted or _DECIMAL.search(wanted) is None or _DECIMAL.search(given) is not None:
        return conventions.digits
    return conventions.digits - 1


def _value_of(given: str, wanted: str, problem: str) -> str:
    """The value that `given` states of a sum of names (`a + b = 34`) or of an expression of the problem, where the gold is a
    value."""
    if "=" not in given or "=" in wanted or "," in given or ";" in given:  # `b = -3, c = 0` is a list
        return given
    return stated_value(given) or sought_value(given, problem) or given


def _same_digits(given: str, wanted: str, problem: str) -> bool:
    """Whether one is the digits of the other, which names its base (`2516` and `2516_8`). The gold's base is the one asked for;
    an answer's must stand in the problem."""
    if base := _IN_BASE.fullmatch(wanted):
        return given == base[1]
    base = _IN_BASE.fullmatch(given)
    return base is not None and wanted == base[1] and re.search(rf"base[\s$-]*{base[2]}(?!\d)", problem) is not None


def answers_equal(
    found: Extraction,
    wanted: str,
    wanted_key: str,
    several: bool,
    conventions: Conventions,
    ask: Ask,
    problem: str = "",
) -> Grade:
    assert found.answer is not None
    given = clean(found.answer, found.prose)
    if not given:
        return Grade(False, found.answer, "no final answer", "extract", unread="extract")
    if key(given) == wanted_key:
        return Grade(True, found.answer, "equal", "string")
    if "base" in problem and _same_digits(given, wanted, problem):
        return Grade(True, found.answer, "equal", "string")
    left, right = parse_number(given), parse_number(wanted)
    if left is not None and right is not None and "," not in wanted and not _DECIMAL_COMMA.match(given):
        digits = _digits(given, wanted, conventions)
        same = numbers_equal(left, right, digits, DIGITS_OF_A_PAIR)
        return Grade(same, found.answer, "equal" if same else "different", "number")
    given = _value_of(given, wanted, problem)
    digits = _digits(given, wanted, conventions)
    comparison = Comparison(replace(conventions, digits=digits) if digits < conventions.digits else conventions, ask)
    same = comparison.answers(given, wanted, found.several, several)
    layer = comparison.layer if comparison.layer != "string" else "structure"
    return Grade(same, found.answer, "equal" if same else "different", layer, unread=comparison.unread)
