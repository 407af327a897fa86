"""grade_pair: extraction and the layers for one response, in one process."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache, lru_cache

from pipeline.verify.comparing.claims import contradicts_itself, nested_too_deeply
from pipeline.verify.comparing.compare import Comparison
from pipeline.verify.comparing.form import copied_ordinal, unevaluated
from pipeline.verify.comparing.scalars import DIGITS_OF_A_PAIR
from pipeline.verify.reading.extract import Extraction, extract
from pipeline.verify.reading.golds import alternatives
from pipeline.verify.reading.normalize import LONGEST_ANSWER, clean, key
from pipeline.verify.reading.numbers import numbers_equal, parse_number
from pipeline.verify.types import Conventions, Grade

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


def grade_pair(response: str, gold: str, conventions: Conventions, ask: Ask, problem: str | None = None) -> Grade:
    """The verdict on `response`. `problem`: the statement, whose formulas are no answers where `conventions.form` is
    `evaluated`. Raises only what `ask` raises, and RecursionError or MemoryError."""
    found = extract(response, conventions.plain_response, conventions.hedge_distance)
    if found.answer is None:
        return Grade(False, None, "no final answer", "extract", unread="extract")
    if len(found.answer) > LONGEST_ANSWER:
        return Grade(False, None, "answer too long", "extract")
    if nested_too_deeply(found.answer):
        return Grade(False, found.answer, "nested too deeply", "extract")
    if found.hedged:
        return Grade(False, found.answer, "hedged", "extract")
    grade = Grade(False, found.answer, "no gold answer", "extract")
    for wanted, wanted_key, several in gold_answers(gold, conventions.gold_list):
        if conventions.form == "evaluated":
            grade = _evaluated_answer(found, gold, (wanted, wanted_key, several), conventions, ask, problem)
        else:
            grade = answers_equal(found, wanted, wanted_key, several, conventions, ask)
        if grade.correct:
            break
    return grade


def _evaluated_answer(
    found: Extraction, gold: str, answer: tuple[str, str, bool], conventions: Conventions, ask: Ask, problem: str | None
) -> Grade:
    """`answers_equal`, where the answer must also have the form of one. What has not is kept from the symbolic layer."""
    assert found.answer is not None
    given, text, wanted = clean(found.answer, found.prose), found.answer, answer[0]

    @cache
    def wanting() -> str:
        copied = copied_ordinal(text, gold, problem)
        return "copied from the problem" if copied else unevaluated(given, wanted, problem)

    def ask_of_answers(question: str, left: str, right: str) -> bool | None:
        return False if wanting() else ask(question, left, right)

    grade = answers_equal(found, *answer, conventions, ask_of_answers)
    if (grade.correct or wanting.cache_info().misses) and wanting():
        return replace(grade, correct=False, reason=f"unevaluated: {wanting()}")
    return grade


def answers_equal(
    found: Extraction, wanted: str, wanted_key: str, several: bool, conventions: Conventions, ask: Ask
) -> Grade:
    assert found.answer is not None
    given = clean(found.answer, found.prose)
    if not given:
        return Grade(False, found.answer, "no final answer", "extract", unread="extract")
    if key(given) == wanted_key:
        return Grade(True, found.answer, "equal", "string")
    if contradicts_itself(given):
        return Grade(False, found.answer, "contradicts itself", "structure")
    left, right = parse_number(given), parse_number(wanted)
    if left is not None and right is not None and "," not in given + wanted:
        same = numbers_equal(left, right, conventions.rounded_digits, DIGITS_OF_A_PAIR)
        return Grade(same, found.answer, "equal" if same else "different", "number")
    comparison = Comparison(conventions, ask)
    same = comparison.answers(given, wanted, found.several, several)
    return Grade(same, found.answer, "equal" if same else "different", comparison.layer, unread=comparison.unread)
