"""What must not be paid in each form, and the usual answers that must stay paid beside it: the tables of holes.py."""

import json
import random
import re
from pathlib import Path

import pytest
from holes import CANCELLED, COPIED, EQUAL, GOLDS_OF_WORDS, NO_GOLD, OWN, SLOPPY, SPOKEN, UNDONE, USUAL
from kinds import KINDS
from pairs import SAME

from pipeline.verify import Grade, VerifierPool, grade
from pipeline.verify.reading.extract import answered_before_cut
from pipeline.verify.types import FORMS


@pytest.fixture(scope="module")
def strict() -> VerifierPool:
    with VerifierPool(2, 1.0, "evaluated") as shared:
        yield shared


def _unlike(pool: VerifierPool, rows: list[tuple], wanted: bool) -> list[tuple[tuple, Grade]]:
    return [(row, g) for row, g in zip(rows, pool.grade_many(rows), strict=True) if g.correct is not wanted]


def _boxed(rows: list[tuple]) -> list[tuple]:
    return [(rf"So it is \boxed{{{given}}}.", *rest) for given, *rest in rows]


@pytest.mark.parametrize("kind", UNDONE)
def test_work_left_undone_is_not_paid(strict: VerifierPool, pool: VerifierPool, kind: str) -> None:
    assert _unlike(strict, _boxed(UNDONE[kind]), False) == []
    assert _unlike(pool, _boxed(UNDONE[kind]), True) == []


@pytest.mark.parametrize("kind", USUAL)
def test_usual_answers_stay_paid(strict: VerifierPool, kind: str) -> None:
    assert _unlike(strict, _boxed(USUAL[kind]), True) == []


def test_copies_of_the_statement(strict: VerifierPool, pool: VerifierPool) -> None:
    assert _unlike(strict, _boxed(COPIED), False) == []
    assert _unlike(pool, _boxed(COPIED), True) == []
    assert _unlike(strict, _boxed(OWN), True) == []


def test_symbols_that_cancel_and_two_values_at_once(strict: VerifierPool, pool: VerifierPool) -> None:
    for graders in (strict, pool):
        assert _unlike(graders, _boxed(CANCELLED + SLOPPY), False) == []
    assert _unlike(pool, _boxed(EQUAL), True) == []


def test_a_gold_that_says_that_there_is_none() -> None:
    for form in FORMS:
        for gold in NO_GOLD:
            for response in (gold, rf"\boxed{{{gold}}}", rf"\boxed{{\text{{{gold}}}}}", f"The answer is {gold}"):
                assert not grade(response, gold, form=form).correct
    assert grade(r"\boxed{proof}", "proof").reason == "no gold answer"
    assert [gold for gold in GOLDS_OF_WORDS if not grade(rf"\boxed{{{gold}}}", gold, form="evaluated").correct] == []


@pytest.mark.parametrize("kind", SPOKEN)
def test_whose_statement_it_is(strict: VerifierPool, pool: VerifierPool, kind: str) -> None:
    paid, refused = SPOKEN[kind]
    for graders in (strict, pool):
        assert _unlike(graders, paid, True) == []
        assert _unlike(graders, refused, False) == []


def test_there_are_enough_cases() -> None:
    paid = sum(map(len, USUAL.values())) + len(OWN) + len(EQUAL) + sum(len(right) for right, _ in SPOKEN.values())
    refused = (
        sum(map(len, UNDONE.values()))
        + len(COPIED + CANCELLED + SLOPPY)
        + sum(len(wrong) for _, wrong in SPOKEN.values())
    )
    assert paid >= 130
    assert refused >= 200


def test_an_answer_is_its_own_form(strict: VerifierPool) -> None:
    """Whatever a gold leaves undone, the answer may leave undone."""
    answers = {
        text for rows in [*SAME.values(), *(same for same, _ in KINDS.values())] for pair in rows for text in pair
    }
    rows = [(rf"\boxed{{{text}}}", text, f"Find ${text}$.") for text in sorted(answers) if text.strip()]
    assert _unlike(strict, rows, True) == []


def test_forms_and_problems_that_are_none(pool: VerifierPool) -> None:
    assert grade(r"\boxed{37*48}", "1776").correct
    refused = grade(r"\boxed{37*48}", "1776", None, "evaluated")
    assert (refused.correct, refused.extracted, refused.reason) == (False, "37*48", "not evaluated: product")
    assert grade(r"\boxed{\sqrt{72}}", r"6\sqrt2", r"Simplify $\sqrt{72}$.", "evaluated").reason == (
        "not evaluated: copied from the problem"
    )
    assert grade(r"\boxed{7}", "7", None, "evaluated").correct
    assert grade(r"\boxed{7}", "7", 5, "evaluated").correct  # type: ignore[arg-type]
    assert "no such form" in grade("7", "7", form="strict").reason  # type: ignore[arg-type]
    assert [g.correct for g in pool.grade_many([("7", "7", None), ("7", "7", "p"), ("7", "7", 5)])] == [
        True,
        True,
        False,
    ]
    with pytest.raises(ValueError, match="form must be one of"):
        VerifierPool(1, 1.0, "strict")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("response", "left"),
    [
        (r"so \boxed{12} and then we", r"so \boxed{12}"),
        (r"so \boxed{12} and then \boxed{1", r"so \boxed{12}"),
        (r"so \boxed{12", ""),
        ("The answer is 12, because", ""),
        ("<think>a</think> so <answer>12</answer> b", "so <answer>12</answer>"),
        (r"<think>\boxed{12}", ""),
    ],
)
def test_a_response_that_the_length_limit_ended(response: str, left: str) -> None:
    assert answered_before_cut(response) == left


# ---- the statement in a box

_FORMULA = re.compile(r"\$\$(.+?)\$\$|(?<!\\)\$((?:\\.|[^$\\])+?)\$|\\\[(.+?)\\\]|\\\((.+?)\\\)", re.S)
MOST_PAID = 0.005


def test_boxing_the_statement_does_not_pay(strict: VerifierPool, data: Path) -> None:
    """Of MATH's training set; test_holes.py has MATH-500. Where a formula is the gold, character by character, it is right."""
    lines = (data / "sets" / "math_train.jsonl").read_text("utf-8").strip().split("\n")
    rows = [json.loads(line) for line in random.Random(0).sample(lines, 600)]
    triples, owners = [], []
    for number, row in enumerate(rows):
        for match in _FORMULA.finditer(row["problem"]):
            formula = next(group for group in match.groups() if group)
            if _bare(formula) != _bare(str(row["answer"])):
                triples.append((rf"\boxed{{{formula}}}", str(row["answer"]), row["problem"]))
                owners.append(number)
    assert len(triples) > 1500
    grades = strict.grade_many(triples)
    paid = {owner: triple[:2] for owner, triple, g in zip(owners, triples, grades, strict=True) if g.correct}
    assert len(paid) <= MOST_PAID * len(rows), paid


def _bare(formula: str) -> str:
    return re.sub(r"[\s.,{}$]|\\left|\\right|\\text", "", formula)


def test_correct_solutions_stay_right(strict: VerifierPool, pool: VerifierPool, data: Path) -> None:
    """A solution as the response. What `evaluated` refuses beyond `equal` is counted on one hand."""
    lines = (data / "sets" / "math_train_with_solution.jsonl").read_text("utf-8").strip().split("\n")[:1000]
    rows = [json.loads(line) for line in lines]
    triples = [(row["solution"], str(row["answer"]), row["problem"]) for row in rows]
    equal, evaluated = pool.grade_many(triples), strict.grade_many(triples)
    assert sum(g.correct for g in equal) >= 0.99 * len(rows)
    assert sum(a.correct and not b.correct for a, b in zip(equal, evaluated, strict=True)) <= 1
