"""Right answers that were lost once, by kind, and beside each the wrong ones that must not be paid with them."""

import json

import pytest
from kinds import GOLDS, KINDS, RESPONSES

from pipeline.verify import Conventions, Grade, VerifierPool, grade
from pipeline.verify.comparing.symbolic import ask
from pipeline.verify.grading import grade_pair
from pipeline.verify.types import DEFAULT

Pairs = list[tuple[str, str]]


def _unlike(pool: VerifierPool, rows: Pairs, wanted: bool) -> list[tuple[tuple[str, str], Grade]]:
    return [(row, g) for row, g in zip(rows, pool.grade_many(rows), strict=True) if g.correct is not wanted]


def _both_ways(rows: Pairs) -> Pairs:
    return [(rf"\boxed{{{a}}}", b) for a, b in rows] + [(rf"\boxed{{{b}}}", a) for a, b in rows]


@pytest.mark.parametrize("kind", KINDS)
def test_answers(pool: VerifierPool, kind: str) -> None:
    same, different = KINDS[kind]
    assert _unlike(pool, _both_ways(same), True) == []
    assert _unlike(pool, _both_ways(different), False) == []


@pytest.mark.parametrize("kind", RESPONSES)
def test_responses(pool: VerifierPool, kind: str) -> None:
    right, wrong = RESPONSES[kind]
    assert _unlike(pool, right, True) == []
    assert _unlike(pool, wrong, False) == []


@pytest.mark.parametrize("kind", GOLDS)
def test_golds(pool: VerifierPool, kind: str) -> None:
    right, wrong = GOLDS[kind]
    assert _unlike(pool, right, True) == []
    assert _unlike(pool, wrong, False) == []


def test_there_are_enough_cases() -> None:
    tables = [*KINDS.values(), *RESPONSES.values(), *GOLDS.values()]
    assert sum(len(right) for right, _ in tables) >= 200
    assert sum(len(wrong) for _, wrong in tables) >= 150
    assert all(right and wrong for right, wrong in tables)


CONVENTIONS = [
    ({"degrees": "number"}, r"\boxed{60^\circ}", r"\frac{\pi}{3}", False),
    ({"degrees": "number"}, r"\boxed{60^\circ}", "60", True),
    ({"degrees": "either"}, r"\boxed{60^\circ}", r"\frac{\pi}{3}", True),
    ({"gold_list": "all"}, r"\boxed{6, 7}", '["6", "7"]', True),
    ({"gold_list": "all"}, r"\boxed{6}", '["6", "7"]', False),
    ({"gold_list": "text"}, r"\boxed{6}", '["6"]', False),
    ({"hedge_distance": 0}, r"\boxed{3}. So it is \boxed{4}", "4", True),
    ({"hedge_distance": 200}, r"\boxed{3}. So it is \boxed{4}", "4", False),
    ({"hedge_distance": 2000}, r"\boxed{3}" + " So on." * 60 + r" \boxed{4}", "4", False),
]


@pytest.mark.parametrize(("changed", "response", "gold", "right"), CONVENTIONS)
def test_conventions(changed: dict, response: str, gold: str, right: bool) -> None:
    assert grade_pair(response, gold, Conventions(**changed), ask).correct is right


DIGIT_LIKE = [chr(code) for code in range(0x110000) if chr(code).isnumeric() and not chr(code).isdecimal()]
EXTREME = [
    "1.2345e400", "1e-2000", "1e99999999", "9" * 4001, "0." + "3" * 3000, r"10^{99999}", "\ud800", "5\udfff", "\ud835",
    r"\frac{" * 300 + "1", "(" * 900 + "1" + ")" * 900, "-" * 900 + "1", "2^" * 300 + "2", r"\sqrt{" * 300 + "2" + "}" * 300,
    r"1.5\cdot10^{2001}", "0x" + "f" * 3000, "1" * 3000 + "_7", r"\dots", "0.(", "0.()", "1/0", r"\frac{1}{0}", "[[", "[[1],2]",
    r"\{", r"x\in", ":", "a:", "A)", "(or)", "5 (or)", "&#55296;", "&#x110000;", "°'", "<sup>", "万", "5^", r"\tanh(10^{300})",
]  # fmt: skip


def test_digit_like_characters_and_extremes_raise_nothing() -> None:
    """`"①".isdigit()` holds, and `int("①")` raises. The list of such characters is Unicode's."""
    for text in [*DIGIT_LIKE, *EXTREME]:
        for given, gold in ((text, "5"), ("5", text), (f"x+{text}", "x+5"), (rf"\frac{{{text}}}{{2}}", text + r"\pi")):
            assert grade_pair(rf"\boxed{{{given}}}", gold, DEFAULT, lambda *_: None).correct in (True, False)


def test_grade_says_so_where_it_fails_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> Grade:
        raise ValueError("a defect")

    monkeypatch.setattr("pipeline.verify.api.grade_pair", broken)
    assert grade(r"\boxed{5}", "5") == Grade(False, None, "error: ValueError", "pool")


IDENTITIES = [
    (r"\frac{\pi}{2}-\arcsin x", r"\arccos x"), (r"2\arcsin\sqrt a", r"\arccos(1-2a)"), (r"\sin 2x", r"2\sin x\cos x"),
    (r"\sqrt[3]{2+\sqrt5}+\sqrt[3]{2-\sqrt5}", "1"), (r"\cos\frac{\pi}{5}", r"\frac{1+\sqrt5}{4}"), (r"e^{ix}",
    r"\cos x+i\sin x"),
]  # fmt: skip


@pytest.mark.parametrize(("given", "gold"), IDENTITIES)
def test_an_identity_needs_no_slow_layer(given: str, gold: str) -> None:
    """Nothing that can time out decides it, so its verdict does not depend on the load of the machine."""

    def never(*_: str) -> bool | None:
        raise AssertionError("asked sympy")

    assert grade_pair(rf"\boxed{{{given}}}", gold, DEFAULT, never).correct
    assert not grade_pair(rf"\boxed{{{given}+10^{{-40}}}}", gold, DEFAULT, never).correct


def test_a_kill_falls_back_on_what_the_cheap_layers_say() -> None:
    slow = r"\int_0^1 \sin(x^{x})\,dx"
    either = json.dumps([r"\frac{\pi}{8}", slow])  # the first is what takes long
    with VerifierPool(workers=1, timeout_s=0.5) as pool:
        right, wrong = pool.grade_many([(rf"\boxed{{{slow}}}", either), (rf"\boxed{{{slow}}}", r"\frac{\pi}{8}")])
    assert (right.correct, right.reason) == (True, "equal")
    assert (wrong.correct, wrong.reason) == (False, "time-out")
    assert right.seconds >= 0.5
