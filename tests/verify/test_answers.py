"""Our own tables: what is the same answer, what is not, and what is an answer at all."""

import pytest
from pairs import DIFFERENT, SAME
from responses import RIGHT, WRONG

from pipeline.verify import Conventions, Grade, VerifierPool, grade
from pipeline.verify.comparing.symbolic import ask
from pipeline.verify.grading import grade_pair


def _missed(pool: VerifierPool, rows: list[tuple[str, str]], wanted: bool) -> list[tuple[tuple[str, str], Grade]]:
    return [(row, g) for row, g in zip(rows, pool.grade_many(rows), strict=True) if g.correct is not wanted]


def _both_ways(rows: list[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(rf"\boxed{{{a}}}", b) for a, b in rows] + [(rf"\boxed{{{b}}}", a) for a, b in rows]


@pytest.mark.parametrize("kind", SAME)
def test_same(pool: VerifierPool, kind: str) -> None:
    assert _missed(pool, _both_ways(SAME[kind]), True) == []


@pytest.mark.parametrize("kind", DIFFERENT)
def test_different(pool: VerifierPool, kind: str) -> None:
    assert _missed(pool, _both_ways(DIFFERENT[kind]), False) == []


def test_right_responses(pool: VerifierPool) -> None:
    assert _missed(pool, RIGHT, True) == []


def test_wrong_responses(pool: VerifierPool) -> None:
    assert _missed(pool, WRONG, False) == []


def test_grade_alone_says_what_it_read_and_why() -> None:
    found = grade(r"Therefore $\boxed{\frac12}$.", "0.5")
    assert (found.correct, found.extracted, found.reason) == (True, r"\frac12", "equal")
    assert grade("It is hard to say what comes out of all this in the end", "0.5").reason == "no final answer"
    assert grade(r"\boxed{1} or \boxed{2}", "1").correct is False


def test_grade_needs_sympy() -> None:
    assert grade(r"\boxed{\sin 2x}", r"2\sin x\cos x").correct


CONVENTIONS = [
    ({"percent": "same"}, r"50\%", "0.5", False),
    ({"percent": "same"}, r"50\%", r"50\%", True),
    ({"percent": "value"}, r"50\%", "50", False),
    ({"percent": "value"}, r"50\%", "0.5", True),
    ({"list_order": "any"}, "10, 4, -2", "4, 10, -2", True),
    ({"list_order": "fixed"}, "2, 1", "1, 2", False),
    ({"units": "same"}, r"5\text{ cm}", "5", False),
    ({"units": "same"}, r"5\text{ cm}", r"5\text{ centimeters}", True),
    ({"digits": 2}, "0.33", r"\frac13", True),
    ({"digits": 6}, "0.3333", r"\frac13", False),
    ({"text_case": True}, r"\text{yes}", r"\text{Yes}", False),
]


@pytest.mark.parametrize(("changed", "given", "gold", "same"), CONVENTIONS)
def test_conventions(changed: dict, given: str, gold: str, same: bool) -> None:
    assert grade_pair(rf"\boxed{{{given}}}", gold, Conventions(**changed), ask).correct is same


def test_a_response_without_marker_may_be_refused() -> None:
    assert grade_pair("x = 3", "3", Conventions(plain_response=False), ask).reason == "no final answer"
